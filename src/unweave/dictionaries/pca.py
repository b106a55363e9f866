"""Control: principal components."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.registry import register
from unweave.dictionaries.one_sided import OneSided, OneSidedConfig, both_sides
from unweave.store.rows import RowSource


@register("pca")
@dataclass(frozen=True, kw_only=True)
class PCA(OneSidedConfig):
    """Principal components as a dictionary: latent j is component j's positive side, latent d_in + j its negative.

    Components are the eigenvectors of the covariance, summed in float64, by falling variance; the largest entry of each
    is positive. With k set, a row keeps its own k strongest sides, which is the best k-term approximation in this basis
    and at least as good as the first k components. Pearson (1901); Hotelling (1933).
    """

    def build(self, d_in: int) -> "PCADictionary":
        """A dictionary of 2·d_in latents."""
        return PCADictionary(self, d_in, 2 * d_in)


class PCADictionary(OneSided):
    """V = [P; −P] with the components P in rows."""

    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Unit rows V."""
        mean = rows.moments().mean
        covariance = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)
        for block in rows.blocks(8192):
            centred = block.double().cpu() - mean
            covariance += centred.T @ centred
        _, vectors = torch.linalg.eigh(covariance / rows.n)
        components = vectors.flip(1).T
        strongest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return both_sides((components * strongest.sign()).float())
