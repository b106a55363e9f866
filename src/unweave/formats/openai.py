"""OpenAI's sparse_autoencoder: a state dict in a `.pt` file, with the activation beside the tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig, RowNorm
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble
from unweave.formats.checks import only_file, shown, whole_number
from unweave.formats.torch_files import load_torch, peek_torch, save_torch, state_of

_OWN = {"pre_bias", "latent_bias", "encoder.weight"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_SETTINGS = {"activation", "activation_state_dict"}
_FILE = "autoencoder.pt"
_ACTIVATIONS = {("standard", "none"): "ReLU", ("topk", "layer_norm"): "TopK"}  # by architecture and norm of rows


@register("openai")
class OpenAI(Format):
    """One file: f = activation((x − pre_bias) W_encᵀ + latent_bias), x̂ = f W_decᵀ + pre_bias.

    The activation is ReLU or TopK. With TopK, and only then, each row is normalised by its own mean and standard
    deviation before the encoder, which is undone after the decoder (`layer_norm`): the file does not say so, the
    library does it wherever it loads such a file.
    """

    def recognises(self, place: Path) -> bool:
        """A state dict with pre_bias and latent_bias."""
        path = only_file(place, ".pt", ".pth")
        return path is not None and state_of(peek_torch(path)).keys() >= _OWN

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = only_file(place, ".pt", ".pth") or place
        state = state_of(load_torch(path))
        weights = Weights({name: value for name, value in state.items() if name not in _SETTINGS}, path)
        d_sae, d_in = weights.matrix("encoder.weight")
        W_enc = weights.take("encoder.weight", d_sae, d_in).T
        tied = "decoder.linear.weight" in weights
        tensors = {
            "W_enc": W_enc,
            "b_enc": weights.take("latent_bias", d_sae),
            "W_dec": weights.take("decoder.linear.weight", d_sae, d_in)
            if tied
            else weights.take("decoder.weight", d_in, d_sae).T,
            "b_dec": weights.take("pre_bias", d_in),
        }
        weights.ignore(*_STATISTICS)
        weights.expect_all_taken()
        config = _config(state, d_sae, path)
        row_norm: RowNorm | None = "layer_norm" if isinstance(config, TopK) else None
        return assemble(config, d_in, tensors, origin={"format": self.kind}, row_norm=row_norm)

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """One file for `Autoencoder.from_state_dict`."""
        exchange = dictionary.saelens()
        computes = None if exchange is None else (exchange.architecture, exchange.row_norm)
        if exchange is None or computes not in _ACTIVATIONS:
            rows = "" if dictionary.row_norm is None else f" of rows normalised by {dictionary.row_norm}"
            raise InputError(
                f"OpenAI's format takes relu dictionaries of rows as they come, and topk dictionaries of rows that are "
                f"normalised by layer_norm; {dictionary.config.kind!r}{rows} computes something else"
            )
        tensors, activation = exchange.tensors, _ACTIVATIONS[computes]
        settings = {"k": exchange.options["k"], "postact_fn": "ReLU"} if activation == "TopK" else {}
        contents: dict[str, Any] = {
            "pre_bias": tensors["b_dec"],
            "latent_bias": tensors["b_enc"],
            "stats_last_nonzero": torch.zeros(dictionary.d_sae, dtype=torch.int64),
            "latents_activation_frequency": torch.ones(dictionary.d_sae),
            "latents_mean_square": torch.zeros(dictionary.d_sae),
            "encoder.weight": tensors["W_enc"].T,
            "decoder.weight": tensors["W_dec"].T,
            "activation": activation,
            "activation_state_dict": settings,
        }
        save_torch(contents, folder / _FILE)


def _config(state: Mapping[str, Any], d_sae: int, path: Path) -> DictionaryConfig:
    activation = state.get("activation", "ReLU")
    if activation == "ReLU":
        return ReLU(d_sae=d_sae, decoder_norm="free")
    if activation != "TopK":
        raise InputError(f"{path}: the activation {shown(activation)} is that of no dictionary of Unweave")
    settings = state.get("activation_state_dict")
    settings = settings if isinstance(settings, Mapping) else {}
    after = settings.get("postact_fn", "ReLU")
    if not isinstance(after, str) or after not in {"ReLU", "Identity"}:
        raise InputError(f"{path}: the largest latents go through {shown(after)}, which no dictionary of Unweave does")
    k = whole_number(settings.get("k"), "k", path, most=d_sae)
    return TopK(d_sae=d_sae, k=k, signed=after == "Identity", decoder_norm="free")
