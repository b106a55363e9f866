"""dictionary_learning: `ae.pt`, a state dict, beside `config.json`, which names its class."""

from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble, centred_bias, in_words, peek_json
from unweave.formats.checks import only_file, shown, whole_number
from unweave.formats.torch_files import load_torch, peek_torch, save_torch, state_of
from unweave.store.artifact import write_json

_FILE, _CONFIG = "ae.pt", "config.json"
_State = dict[str, Tensor]
_Made = tuple[DictionaryConfig, _State]
_LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
_FOUR = {"W_enc", "b_enc", "W_dec", "b_dec"}
_KEYS = {
    "AutoEncoder": _LINEAR | {"bias"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias"},
    "GatedAutoEncoder": {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "JumpReluAutoEncoder": _FOUR | {"threshold"},
    "MatryoshkaBatchTopKSAE": _FOUR | {"threshold", "k", "group_sizes"},
}
_LARGEST = _LINEAR | {"b_dec", "k"}  # of TopK and BatchTopK alike: only config.json tells them apart
_TOLD = {"lm_name": "model_name", "layer": "layer", "submodule_name": "submodule_name"}


@register("dictionary-learning")
class DictionaryLearning(Format):
    """A folder of a trainer, or its `ae.pt`, or a checkpoint of it.

    AutoEncoder, AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE and GatedAutoEncoder subtract b_dec from the
    rows; AutoEncoderNew and JumpReluAutoEncoder do not, which is folded into the encoder's bias. A threshold of −1 is
    one that was never set: everything positive is kept. Weights are read as they are saved; `AutoEncoder` scales its
    decoder rows to length 1 when its own library loads it, unless told not to.
    """

    def recognises(self, place: Path) -> bool:
        """`ae.pt` beside a configuration that names a class, or tensors with the names of one."""
        path = _weights(place)
        if path is None:
            return False
        named = _trainer(path).get("dict_class")
        keys = state_of(peek_torch(path)).keys()
        known = keys in _KEYS.values() or keys - {"threshold"} == _LARGEST
        return known or (isinstance(named, str) and path.name.startswith("ae") and bool(keys))

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = _weights(place)
        if path is None:
            raise StoreError(f"{place} holds no {_FILE}")
        state, trainer = state_of(load_torch(path)), _trainer(path)
        name = _class(trainer, state, path)
        weights = Weights(state, path)
        config, tensors = _READERS[name](weights, state)
        weights.expect_all_taken()
        told = {own: trainer[name] for name, own in _TOLD.items() if isinstance(trainer.get(name), (str, int))}
        origin: Json = {"format": self.kind, "class": name, **told}
        return assemble(config, tensors["W_dec"].shape[1], tensors, origin=origin)

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """The two files that `load_dictionary` reads."""
        exchange = in_words(dictionary, "dictionary_learning")
        if exchange is None or exchange.architecture not in _WRITERS:
            raise InputError(
                f"dictionary_learning has no class for {dictionary.config.kind!r}: what it computes cannot be "
                "written in that format"
            )
        name, write = _WRITERS[exchange.architecture]
        save_torch(write(exchange), folder / _FILE)
        trainer: Json = {"dict_class": name, "activation_dim": dictionary.d_in, "dict_size": dictionary.d_sae}
        origin = dictionary.origin
        trainer.update(lm_name=str(origin.get("model_name", "")), layer=origin.get("layer", 0))
        trainer.update(submodule_name=dictionary.hook_name or None, **exchange.options)
        write_json(folder / _CONFIG, {"trainer": trainer, "buffer": {}})


def _weights(place: Path) -> Path | None:
    inside = place / _FILE
    return inside if inside.is_file() else None if place.is_dir() else only_file(place, ".pt", ".pth")


def _trainer(path: Path) -> Json:
    """What `config.json` says of the training; checkpoints lie one folder below it."""
    places = [path.parent, *([path.parent.parent] if path.parent.name == "checkpoints" else [])]
    found = (peek_json(place / _CONFIG).get("trainer") for place in places)
    return next((trainer for trainer in found if isinstance(trainer, dict)), {})


def _class(trainer: Json, state: Mapping[str, Any], path: Path) -> str:
    named = trainer.get("dict_class")
    if named is None:
        fitting = [name for name, keys in _KEYS.items() if state.keys() == keys]
        if not fitting:
            alike = state.keys() - {"threshold"} == _LARGEST
            what = "a TopK and a BatchTopK look the same" if alike else "its tensors are those of no known class"
            raise InputError(f"{path}: {what}; put the {_CONFIG} of the training beside it, which names the class")
        return fitting[0]
    if named not in _READERS:
        raise InputError(f"{path}: the class {shown(named)} computes something that no dictionary of Unweave does")
    return str(named)


def _linear(weights: Weights, bias: str) -> tuple[int, _State]:
    """The tensors of two `Linear` layers, with a bias that is subtracted from the rows."""
    d_sae, d_in = weights.matrix("encoder.weight")
    return d_sae, {
        "W_enc": weights.take("encoder.weight", d_sae, d_in).T,
        "W_dec": weights.take("decoder.weight", d_in, d_sae).T,
        "b_dec": weights.take(bias, d_in),
    }


def _auto_encoder(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _linear(weights, "bias")
    return ReLU(d_sae=d_sae, decoder_norm="free"), {**tensors, "b_enc": weights.take("encoder.bias", d_sae)}


def _auto_encoder_new(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _linear(weights, "decoder.bias")
    bias = centred_bias(weights.take("encoder.bias", d_sae), tensors["b_dec"], tensors["W_enc"])
    return ReLU(d_sae=d_sae, decoder_norm="free"), {**tensors, "b_enc": bias}


def _top_k(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _linear(weights, "b_dec")
    weights.ignore("k", "threshold")  # used on request only
    k = whole_number(state.get("k"), "k", weights.path, most=d_sae)
    config = TopK(d_sae=d_sae, k=k, decoder_norm="free")
    return config, {**tensors, "b_enc": weights.take("encoder.bias", d_sae)}


def _batch_top_k(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _linear(weights, "b_dec")
    weights.ignore("k")
    k = whole_number(state.get("k"), "k", weights.path, most=d_sae)
    config = BatchTopK(d_sae=d_sae, k=k, decoder_norm="free")
    bias = {"b_enc": weights.take("encoder.bias", d_sae), "threshold": _threshold(weights)}
    return config, {**tensors, **bias}


def _threshold(weights: Weights) -> Tensor:
    """One threshold for all latents; below zero it was never set, and codes are relu'd."""
    return weights.take("threshold").clamp_min(0.0)


def _four(weights: Weights) -> tuple[int, _State]:
    d_sae, d_in = weights.matrix("W_dec")
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    return d_sae, {name: weights.take(name, *shape) for name, shape in shapes.items()}


def _matryoshka(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _four(weights)
    (groups,) = (*weights.shape("group_sizes"), 0)[:1]
    listed = state["group_sizes"].tolist() if len(weights.shape("group_sizes")) == 1 and groups <= d_sae else []
    sizes = [whole_number(size, "a group's size", weights.path, most=d_sae) for size in listed]
    if sum(sizes) != d_sae:
        raise StoreError(f"{weights.path}: group_sizes should add up to {d_sae} latents")
    weights.ignore("k", "group_sizes")
    k = whole_number(state.get("k"), "k", weights.path, most=d_sae)
    prefixes = tuple(end / d_sae for end in accumulate(sizes))
    config = Matryoshka(d_sae=d_sae, k=k, prefixes=prefixes, decoder_norm="free")
    return config, {**tensors, "threshold": _threshold(weights)}


def _jump_relu(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _four(weights)
    tensors["b_enc"] = centred_bias(tensors["b_enc"], tensors["b_dec"], tensors["W_enc"])
    threshold = weights.take("threshold", d_sae, infinite=True).clamp_min(0.0)
    config = JumpReLU(d_sae=d_sae, target=min(32.0, float(d_sae)), decoder_norm="free")
    return config, {**tensors, "threshold": threshold}


def _gated(weights: Weights, state: Mapping[str, Any]) -> _Made:
    d_sae, tensors = _linear(weights, "decoder_bias")
    r_mag, gate = weights.take("r_mag", d_sae), weights.take("gate_bias", d_sae)
    own = weights.take("mag_bias", d_sae).double() - r_mag.double().exp() * gate.double()
    return Gated(d_sae=d_sae, decoder_norm="free"), {**tensors, "b_enc": gate, "r_mag": r_mag, "b_mag": own.float()}


_READERS: dict[str, Callable[[Weights, Mapping[str, Any]], _Made]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
}


def _layers(exchange: Exchange, bias: str) -> dict[str, Any]:
    tensors = exchange.tensors
    return {
        bias: tensors["b_dec"],
        "encoder.weight": tensors["W_enc"].T,
        "decoder.weight": tensors["W_dec"].T,
    }


def _write_standard(exchange: Exchange) -> dict[str, Any]:
    return {**_layers(exchange, "bias"), "encoder.bias": exchange.tensors["b_enc"]}


def _write_topk(exchange: Exchange) -> dict[str, Any]:
    counts = {"k": torch.tensor(exchange.options["k"], dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    return {**counts, **_layers(exchange, "b_dec"), "encoder.bias": exchange.tensors["b_enc"]}


def _write_jumprelu(exchange: Exchange) -> dict[str, Any]:
    tensors = exchange.tensors
    return {**tensors, "b_enc": centred_bias(tensors["b_enc"], -tensors["b_dec"], tensors["W_enc"])}


def _write_gated(exchange: Exchange) -> dict[str, Any]:
    tensors = exchange.tensors
    biases = {"r_mag": tensors["r_mag"], "gate_bias": tensors["b_gate"], "mag_bias": tensors["b_mag"]}
    return {**_layers(exchange, "decoder_bias"), **biases}


_WRITERS: dict[str, tuple[str, Callable[[Exchange], dict[str, Any]]]] = {
    "standard": ("AutoEncoder", _write_standard),
    "topk": ("AutoEncoderTopK", _write_topk),
    "jumprelu": ("JumpReluAutoEncoder", _write_jumprelu),
    "gated": ("GatedAutoEncoder", _write_gated),
}
