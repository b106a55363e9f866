"""Control: the layer's own units."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.registry import register
from unweave.dictionaries.one_sided import OneSided, OneSidedConfig, both_sides
from unweave.store.rows import RowSource


@register("neurons")
@dataclass(frozen=True, kw_only=True)
class Neurons(OneSidedConfig):
    """The layer's own units as a dictionary: latent j is unit j above its mean, latent d_in + j unit j below it.

    The control that every dictionary must beat: if single units already stand for something, nothing was gained.
    """

    def build(self, d_in: int) -> "NeuronDictionary":
        """A dictionary of 2·d_in latents."""
        return NeuronDictionary(self, d_in, 2 * d_in)


class NeuronDictionary(OneSided):
    """V = [I; −I]."""

    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Unit rows V."""
        return both_sides(torch.eye(self.d_in))
