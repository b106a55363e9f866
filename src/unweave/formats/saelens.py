"""SAELens: `cfg.json` beside `sae_weights.safetensors`, of any version."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import WEIGHTS, Dictionary, DictionaryConfig, RowNorm
from unweave.dictionaries.exchange import CFG, OWN_KINDS, cfg_json
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.matching_pursuit import MatchingPursuit
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble, centred_bias, json_object, peek_json
from unweave.formats.checks import row_norm_of, shown
from unweave.store.artifact import write_json
from unweave.store.files import save_tensors

_OTHER_WEIGHTS = "sae.safetensors"
_HOOK_NAMES = ("hook_name", "hook_point")
_TOLD = ("model_name", "dataset_path", "hook_head_index", "hook_point_head_index", "context_size", "neuronpedia_id")

_State = dict[str, Tensor]
_Read = Callable[["_Source"], tuple[DictionaryConfig, _State]]


@register("saelens")
class SAELens(Format):
    """SAELens' folder; the native one is such a folder too, wherever SAELens has words for the kind.

    Read are standard, topk, jumprelu, gated, batchtopk and matryoshka_batchtopk (as jumprelu, which is what SAELens
    makes of them), and matching_pursuit where nothing but the number of steps ends the pursuit. Folded into the weights
    are an encoder that b_dec is not subtracted for, decoder norms that codes are rescaled by, the one factor that all
    rows are multiplied with, and the factors of a finetuned decoder. Rows that are normalised one by one (`layer_norm`,
    `constant_norm_rescale`) make it a dictionary of normalised rows.
    """

    def recognises(self, place: Path) -> bool:
        """`cfg.json` with d_in and d_sae, and weights beside it."""
        cfg = _cfg_path(place)
        known = peek_json(cfg)
        named = "d_sae" in known or ("d_in" in known and _hook_name(known) != "")
        return named and "d_in" in known and _weights_path(place) is not None

    def read(self, place: Path) -> Dictionary:
        """The dictionary that lies there."""
        cfg = json_object(_cfg_path(place))
        path = _weights_path(place)
        if path is None:
            raise StoreError(f"{_cfg_path(place).parent} has no {WEIGHTS} beside its {CFG}")
        source = _Source(_flat(cfg), Weights.of(path), _cfg_path(place))
        source.expect_readable()
        config, state = _ARCHITECTURES[source.architecture](source)
        source.weights.expect_all_taken()
        origin: Json = {"format": self.kind, "architecture": source.architecture, **_origin(source.cfg)}
        hook_name = _hook_name(source.cfg)
        return assemble(config, source.d_in, state, hook_name=hook_name, origin=origin, row_norm=source.row_norm())

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """The two files that `SAE.load_from_disk` reads."""
        exchange = dictionary.saelens()
        if exchange is None:
            raise InputError(
                f"SAELens has no architecture for this {dictionary.config.kind!r} dictionary: what it computes cannot "
                "be written in that format"
            )
        save_tensors(folder / WEIGHTS, exchange.tensors)
        metadata = {"hook_name": dictionary.hook_name or None, **dictionary.origin}
        shape = {"d_in": dictionary.d_in, "d_sae": dictionary.d_sae}
        write_json(folder / CFG, cfg_json(exchange, kind=dictionary.config.kind, **shape, metadata=metadata))


class _Source:
    """One folder as it is read: its configuration, with the names of later versions, and its weights."""

    def __init__(self, cfg: Json, weights: Weights, path: Path) -> None:
        self.cfg = cfg
        self.weights = weights
        self.path = path
        self.d_sae, self.d_in = weights.matrix("W_dec")

    @property
    def architecture(self) -> str:
        """Which one it is; the early versions had one only."""
        named = str(self.cfg.get("architecture") or "standard")
        return "topk" if self._activation() == "topk" and named == "standard" else named

    def expect_readable(self) -> None:
        """Everything that changes what it computes is known here.

        Raises:
            InputError: it is not.
            StoreError: configuration and weights contradict each other.
        """
        for name, found in (("d_in", self.d_in), ("d_sae", self.d_sae)):
            said = self.cfg.get(name, found)
            if said != found:
                raise StoreError(f"{self.path} says {name} {said!r}, the weights have {found}")
        if self.architecture.startswith(OWN_KINDS):
            raise InputError(
                f"{self.path.parent} holds Unweave's own kind {self.architecture.removeprefix(OWN_KINDS)!r} without "
                "its manifest.json; fetch the whole folder"
            )
        if self.architecture not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise InputError(
                f"{self.path}: the architecture {self.architecture!r} computes something that no dictionary of Unweave "
                f"does; known are {known}"
            )
        if self._activation() not in {"relu", "topk"}:
            raise InputError(f"{self.path}: the activation {self._activation()!r} is that of no dictionary of Unweave")

    def _activation(self) -> str:
        return str(self.cfg.get("activation_fn") or "relu")

    @property
    def k(self) -> int:
        """Latents that may be active in a row.

        Raises:
            StoreError: it is not said, or makes no sense.
        """
        arguments = self.cfg.get("activation_fn_kwargs")
        k = self.cfg.get("k", arguments.get("k") if isinstance(arguments, dict) else None)
        if not isinstance(k, (int, float)) or isinstance(k, bool) or k != k // 1 or not 1 <= k <= self.d_sae:
            raise StoreError(f"{self.path}: k should be a whole number between 1 and {self.d_sae}, it is {k!r}")
        return int(k)

    def take(self, name: str, *, infinite: bool = False) -> Tensor:
        """A tensor of one number a latent."""
        return self.weights.take(name, self.d_sae, infinite=infinite)

    def flag(self, name: str, default: bool) -> bool:
        """A switch of the configuration.

        Raises:
            StoreError: it is no switch.
        """
        value = self.cfg.get(name, default)
        if not isinstance(value, bool):
            raise StoreError(f"{self.path}: {name} should be true or false, it is {value!r}")
        return value

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_enc, W_dec and b_dec, for rows as they come."""
        W_enc = self.weights.take("W_enc", self.d_in, self.d_sae)
        W_dec = self.weights.take("W_dec", self.d_sae, self.d_in)
        b_dec = self.weights.take("b_dec", self.d_in)
        factor = self.row_factor()
        return W_enc * factor, W_dec / factor * self._finetuned(), b_dec / factor

    def bias(self, name: str, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        """An encoder's bias, for rows that b_dec is subtracted from."""
        bias = self.take(name)
        return bias if self.flag("apply_b_dec_to_input", True) else centred_bias(bias, b_dec, W_enc)

    def norms(self, W_dec: Tensor) -> Tensor:
        """What codes are multiplied with, and the decoder divided by: the norms of its rows, or 1."""
        return W_dec.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny) if self.by_norm else torch.ones(self.d_sae)

    @property
    def by_norm(self) -> bool:
        """Whether codes are rescaled by the norms of the decoder's rows."""
        trained = self.architecture in _TRAINED_ONLY
        return (trained or self.architecture == "topk") and self.flag("rescale_acts_by_decoder_norm", trained)

    def row_norm(self) -> RowNorm | None:
        """What each row is normalised by, where each is by numbers of its own."""
        return row_norm_of(self.cfg.get("normalize_activations"))

    def row_factor(self) -> float:
        """What all rows are multiplied with, so that their mean length is √d_in."""
        mode = self.cfg.get("normalize_activations") or "none"
        if mode == "none" or self.row_norm() is not None:
            return 1.0
        if mode not in ("expected_average_only_in", True):  # early versions had a switch
            raise InputError(
                f"{self.path}: normalize_activations={shown(mode)} does to rows what no dictionary of Unweave does"
            )
        factor = self.cfg.get("norm_scaling_factor")
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < math.inf:
            raise InputError(
                f"{self.path}: the rows were scaled to a mean length of √d_in before training, and the factor is not "
                "part of the files. Write it into cfg.json as norm_scaling_factor: √d_in divided by the mean length "
                "of the rows it was trained on; with 1 it takes rows as they come, as SAELens does"
            )
        return float(factor)

    def _finetuned(self) -> Tensor:
        """What the decoder's rows are multiplied with, in versions that finetuned them."""
        name = next((name for name in ("scaling_factor", "finetuning_scaling_factor") if name in self.weights), None)
        if name is None:
            return torch.ones(self.d_sae, 1)
        factors = self.take(name)
        if not bool((factors == 1).all()) and not self.flag("finetuning_scaling_factor", False):
            raise StoreError(f"{self.path} says that the decoder was not finetuned, the weights hold its {name}")
        return factors[:, None]


def _linear(source: _Source) -> _State:
    W_enc, W_dec, b_dec = source.matrices()
    bias, norms = source.bias("b_enc", W_enc, b_dec), source.norms(W_dec)
    return {"W_enc": W_enc * norms, "b_enc": bias * norms, "W_dec": W_dec / norms[:, None], "b_dec": b_dec}


def _standard(source: _Source) -> tuple[DictionaryConfig, _State]:
    return ReLU(d_sae=source.d_sae, decoder_norm="free"), _linear(source)


def _topk(source: _Source) -> tuple[DictionaryConfig, _State]:
    return TopK(d_sae=source.d_sae, k=source.k, decoder_norm="free"), _linear(source)


def _jumprelu(source: _Source) -> tuple[DictionaryConfig, _State]:
    state = _linear(source)
    if "log_threshold" in source.weights:
        threshold = source.take("log_threshold", infinite=True).exp()
    else:
        threshold = source.take("threshold", infinite=True)
    # There codes are relu'd and then cut: below zero a threshold cuts nothing.
    return _thresholded(source.d_sae), {**state, "threshold": threshold.clamp_min(0.0)}


def _batch_topk(source: _Source) -> tuple[DictionaryConfig, _State]:
    """As it was trained: one threshold for all, in units of the codes."""
    if "threshold" in source.weights:
        return _jumprelu(source)
    state = _linear(source)
    threshold = source.weights.take("topk_threshold").clamp_min(0.0) / (source.row_factor() if source.by_norm else 1.0)
    return _thresholded(source.d_sae), {**state, "threshold": threshold.expand(source.d_sae).clone()}


def _thresholded(d_sae: int) -> JumpReLU:
    return JumpReLU(d_sae=d_sae, target=min(32.0, float(d_sae)), decoder_norm="free")


def _gated(source: _Source) -> tuple[DictionaryConfig, _State]:
    W_enc, W_dec, b_dec = source.matrices()
    r_mag = source.take("r_mag")
    gain = r_mag.double().exp()
    gate, magnitude = source.bias("b_gate", W_enc, b_dec), source.take("b_mag").double()
    if not source.flag("apply_b_dec_to_input", True):
        magnitude += gain * (b_dec.double() @ W_enc.double())
    state = {"W_enc": W_enc, "b_enc": gate, "W_dec": W_dec, "b_dec": b_dec, "r_mag": r_mag}
    own = magnitude - gain * gate.double()  # here the gate's bias is part of the magnitude
    return Gated(d_sae=source.d_sae, decoder_norm="free"), {**state, "b_mag": own.float()}


def _matching_pursuit(source: _Source) -> tuple[DictionaryConfig, _State]:
    steps = source.cfg.get("max_iterations")
    if source.cfg.get("residual_threshold", 1e-2) or source.flag("stop_on_duplicate_support", True):
        raise InputError(
            f"{source.path}: the pursuit ends at a residual or at a latent that comes again; Unweave's takes a fixed "
            "number of steps (residual_threshold 0, stop_on_duplicate_support false)"
        )
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool)):
        raise StoreError(f"{source.path}: max_iterations should be a whole number, it is {steps!r}")
    config = MatchingPursuit(d_sae=source.d_sae, k=source.d_in if steps is None else steps)
    W_dec = source.weights.take("W_dec", source.d_sae, source.d_in)
    b_dec = source.weights.take("b_dec", source.d_in)
    factor = source.row_factor()
    subtracted = source.flag("apply_b_dec_to_input", True)
    return config, {"W_dec": W_dec / factor, "b_dec": b_dec / factor * subtracted}


_ARCHITECTURES: dict[str, _Read] = {
    "standard": _standard,
    "topk": _topk,
    "jumprelu": _jumprelu,
    "gated": _gated,
    "batchtopk": _batch_topk,
    "matryoshka_batchtopk": _batch_topk,
    "matching_pursuit": _matching_pursuit,
}
_TRAINED_ONLY = {"batchtopk", "matryoshka_batchtopk"}  # saved while they train; there decoder norms count by default


def _cfg_path(place: Path) -> Path:
    return (place if place.is_dir() else place.parent) / CFG


def _weights_path(place: Path) -> Path | None:
    if place.is_dir():
        found = (place / name for name in (WEIGHTS, _OTHER_WEIGHTS))
        return next((path for path in found if path.is_file()), None)
    return place if place.suffix == ".safetensors" and place.is_file() else _weights_path(place.parent)


def _flat(cfg: Json) -> Json:
    """The configuration with the names of version 6; a training run keeps that of its dictionary one level down."""
    inner = cfg.get("sae")
    if isinstance(inner, dict) and "d_sae" in inner:
        cfg = {**cfg, **inner}
    return {"activation_fn": cfg.get("activation_fn_str", "relu"), **cfg}


def _hook_name(cfg: Json) -> str:
    return next((name for place in _places(cfg) for key in _HOOK_NAMES if isinstance(name := place.get(key), str)), "")


def _origin(cfg: Json) -> Json:
    """What is told of where it came from."""
    told: Json = {}
    for place in _places(cfg):
        for name in _TOLD:
            value: Any = place.get(name)
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                told.setdefault(name, value)
    return told


def _places(cfg: Json) -> list[Json]:
    """Where facts about a dictionary stand: in `metadata` from version 6 on, before that beside everything else."""
    metadata = cfg.get("metadata")
    return [metadata, cfg] if isinstance(metadata, dict) else [cfg]
