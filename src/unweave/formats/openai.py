"""OpenAI's sparse_autoencoder: a state dict in a `.pt` file, with the activation beside the tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.relu import ReLU
from unweave.formats.base import Format, Weights, assemble
from unweave.formats.checks import only_file, shown
from unweave.formats.torch_files import load_torch, peek_torch, save_torch, state_of

_OWN = {"pre_bias", "latent_bias", "encoder.weight"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_SETTINGS = {"activation", "activation_state_dict"}
_FILE = "autoencoder.pt"


@register("openai")
class OpenAI(Format):
    """One file: f = activation((x − pre_bias) W_encᵀ + latent_bias), x̂ = f W_decᵀ + pre_bias.

    Files with the activation TopK are refused: the library that wrote them normalises each row by its own mean and
    standard deviation before such an encoder and undoes it after the decoder, with the row's numbers. Codes alone do
    not say what was divided away, and a dictionary of Unweave decodes codes alone.
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
        return assemble(_config(state, d_sae, path), d_in, tensors, origin={"format": self.kind})

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """One file for `Autoencoder.from_state_dict`."""
        exchange = dictionary.saelens()
        if exchange is None or exchange.architecture != "standard":
            raise InputError(
                f"OpenAI's format takes relu dictionaries; {dictionary.config.kind!r} computes something else (its "
                "TopK normalises each row, which Unweave's do not)"
            )
        tensors = exchange.tensors
        contents: dict[str, Any] = {
            "pre_bias": tensors["b_dec"],
            "latent_bias": tensors["b_enc"],
            "stats_last_nonzero": torch.zeros(dictionary.d_sae, dtype=torch.int64),
            "latents_activation_frequency": torch.ones(dictionary.d_sae),
            "latents_mean_square": torch.zeros(dictionary.d_sae),
            "encoder.weight": tensors["W_enc"].T,
            "decoder.weight": tensors["W_dec"].T,
            "activation": "ReLU",
            "activation_state_dict": {},
        }
        save_torch(contents, folder / _FILE)


def _config(state: Mapping[str, Any], d_sae: int, path: Path) -> DictionaryConfig:
    activation = state.get("activation", "ReLU")
    if activation == "ReLU":
        return ReLU(d_sae=d_sae, decoder_norm="free")
    if activation != "TopK":
        raise InputError(f"{path}: the activation {shown(activation)} is that of no dictionary of Unweave")
    raise InputError(
        f"{path}: its activation is TopK, and with that OpenAI's code normalises each row by its own mean and standard "
        "deviation; a dictionary of Unweave decodes codes alone and cannot undo that"
    )
