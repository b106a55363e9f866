"""How a dictionary is written down so that other libraries can compute it: SAELens' words, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unweave.core.config import Json

CFG = "cfg.json"
_READS_AS = "6.0.0"  # the SAELens whose configuration this is; without it a reader takes it for an older one
OWN_KINDS = "unweave-"  # of an architecture that is none of SAELens'
_DTYPES = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """What a dictionary computes, in the words of SAELens.

    In each architecture b_dec is subtracted from the rows and added to the reconstruction f W_dec + b_dec. With
    z = (x − b_dec) W_enc + b_enc:

    - `standard`: f = relu(z)
    - `topk`: f = the `k` largest positive entries of z
    - `jumprelu`: f = relu(z) where z > threshold
    - `gated`: f = relu(exp(r_mag)·(x − b_dec) W_enc + b_mag) where (x − b_dec) W_enc + b_gate > 0
    - `matching_pursuit`: f = `max_iterations` steps of matching pursuit of x − b_dec in W_dec

    Attributes:
        architecture: one of these.
        tensors: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in] and what else it has.
        options: its settings.
        row_norm: what is done to each row before b_dec is subtracted, and undone after the decoder: `none`,
            `layer_norm` or `constant_norm_rescale`.
    """

    architecture: str
    tensors: Mapping[str, Float[Tensor, "..."]]
    options: Mapping[str, Any] = field(default_factory=dict)
    row_norm: str = "none"

    @classmethod
    def linear(cls, tensors: Mapping[str, Float[Tensor, "..."]], k: int | None = None) -> "Exchange":
        """Positive pre-activations, or the k largest of them."""
        if k is None:
            return cls(architecture="standard", tensors=tensors)
        return cls(architecture="topk", tensors=tensors, options={"k": k, "rescale_acts_by_decoder_norm": False})


def cfg_json(exchange: Exchange | None, *, kind: str, d_in: int, d_sae: int, metadata: Mapping[str, Any]) -> Json:
    """The content of `cfg.json`, as SAELens from version 6 on reads it.

    Args:
        exchange: what the dictionary computes; None where SAELens has no word for it, which the architecture then says.
        kind: name that the dictionary's configuration is registered under.
        d_in: width of a row.
        d_sae: number of latents.
        metadata: what is known of it: `hook_name`, `model_name`, ...
    """
    dtype = "float32" if exchange is None else str(exchange.tensors["W_dec"].dtype).removeprefix("torch.")
    return {
        "architecture": f"{OWN_KINDS}{kind}" if exchange is None else exchange.architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        **({} if exchange is None else exchange.options),
        "dtype": dtype if dtype in _DTYPES else "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none" if exchange is None else exchange.row_norm,
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _READS_AS,
            "sae_lens_training_version": None,
            **metadata,
            "unweave_version": version("unweave"),
            "unweave_kind": kind,
        },
    }
