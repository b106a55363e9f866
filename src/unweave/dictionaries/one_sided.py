"""What the control dictionaries share: fixed directions, sparse one-sided codes, one fitted gain.

A control must be comparable to a sparse autoencoder latent by latent, so it follows the same rule: codes are not
negative, and at most k of them are active in a row. A direction that can point both ways gives two latents, one for
each side.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig, best_gain
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.sae import keep_largest
from unweave.store.rows import RowSource

_GAIN_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class OneSidedConfig(DictionaryConfig):
    """Options that every control has."""

    k: int | None = None
    "latents that may be active in a row; all that are positive by default"

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise InputError(f"k must be at least 1, got {self.k}")


class OneSided(Dictionary):
    """f = the k largest positive entries of (x − mean) Vᵀ; x̂ = mean + gain·f V, with unit rows V [d_sae, d_in].

    The gain is the one number that makes the reconstruction best in least squares on the fitted rows; it is 1 for an
    orthonormal set.
    """

    trained_by_gradient: ClassVar[bool] = False
    config: OneSidedConfig
    mean: Tensor
    V: Tensor
    gain: Tensor

    def __init__(self, config: OneSidedConfig, d_in: int, d_sae: int) -> None:
        super().__init__(config, d_in, d_sae)
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("V", torch.zeros(d_sae, d_in))
        self.register_buffer("gain", torch.ones(()))

    @abstractmethod
    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Unit rows V."""

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Fit mean, directions and gain (the gain on the first 65,536 rows)."""
        if rows.d_in != self.d_in:
            raise InputError(f"the dictionary takes rows of width {self.d_in}, the data has {rows.d_in}")
        moments = rows.moments()
        if not math.isfinite(moments.variance):
            raise InputError("the rows hold NaN or Inf; look for them in the activations")
        self.mean.copy_(moments.mean)
        self.V.copy_(self.fit_directions(rows, generator))
        self.gain.fill_(1.0)
        self.gain.fill_(best_gain(self, rows, self.mean, most=_GAIN_ROWS))

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""
        pre = (x - self.mean) @ self.V.T
        return torch.relu(pre) if self.config.k is None else keep_largest(pre, min(self.config.k, self.d_sae))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for."""
        return self.gain * (codes @ self.V) + self.mean

    def saelens(self) -> Exchange:
        """SAELens' standard autoencoder, or its topk: the gain goes into the decoder."""
        tensors = {
            "W_enc": self.V.T,
            "b_enc": self.V.new_zeros(self.d_sae),
            "W_dec": self.directions(),
            "b_dec": self.mean,
        }
        return Exchange.linear(tensors, None if self.config.k is None else min(self.config.k, self.d_sae))

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row."""
        return self.gain * self.V


def both_sides(directions: Float[Tensor, "m d_in"]) -> Float[Tensor, "two_m d_in"]:
    """Directions followed by their opposites."""
    return torch.cat([directions, -directions])
