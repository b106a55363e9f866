"""Control: random directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.registry import register
from unweave.dictionaries.one_sided import OneSided, OneSidedConfig
from unweave.store.rows import RowSource


@register("random")
@dataclass(frozen=True, kw_only=True)
class RandomDirections(OneSidedConfig):
    """Directions drawn evenly from the sphere, never trained: what selecting the k best of many gives by itself.

    A random direction that is among a row's few strongest already says something of the row. What an SAE shows beyond
    this is what its training found.
    """

    d_sae: int = 1024
    "number of latents"

    def build(self, d_in: int) -> "RandomDictionary":
        """A dictionary of d_sae latents."""
        return RandomDictionary(self, d_in, self.d_sae)


class RandomDictionary(OneSided):
    """V = normalised Gaussian rows."""

    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Unit rows V."""
        return torch.nn.functional.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
