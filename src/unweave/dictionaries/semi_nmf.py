"""Semi-non-negative matrix factorisation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unweave.core.registry import register
from unweave.dictionaries.kmeans import cluster
from unweave.dictionaries.nonnegative import NonNegative, NonNegativeConfig

_START_ITERATIONS = 20
_JITTER = 1e-2


@register("semi-nmf")
@dataclass(frozen=True, kw_only=True)
class SemiNMF(NonNegativeConfig):
    """Semi-non-negative matrix factorisation: rows of any sign, x ≈ f W with f ≥ 0 and W of any sign.

    Ding, Li and Jordan (2010), "Convex and semi-nonnegative matrix factorizations". As there, directions start at the
    centres of a k-means clustering and are solved for exactly in each iteration; codes move by coordinate descent in
    the place of multiplicative steps, which never reach zero. There is no bias. Without k nothing makes codes sparse:
    expect most latents to be active in every row, and other seeds to give other directions of the same span.
    """

    def build(self, d_in: int) -> "SemiNMFDictionary":
        """A dictionary of d_sae latents."""
        return SemiNMFDictionary(self, d_in)


class SemiNMFDictionary(NonNegative):
    """f = argmin ‖x − f W_dec‖² over f ≥ 0; x̂ = f W_dec."""

    config: SemiNMF

    def start(self, sample: Float[Tensor, "n d_in"], generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Centres of clusters, a little apart from each other; random directions where there are too few rows."""
        centres, _ = cluster(sample, min(self.d_sae, len(sample)), _START_ITERATIONS, generator)
        drawn = torch.nn.functional.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        drawn[: len(centres)] = torch.nn.functional.normalize(centres, dim=1) + _JITTER * drawn[: len(centres)]
        return drawn

    def solve(
        self,
        gram: Float64[Tensor, "d_sae d_sae"],
        dots: Float64[Tensor, "d_sae d_in"],
        before: Float64[Tensor, "d_sae d_in"],
    ) -> Float64[Tensor, "d_sae d_in"]:
        """gram⁻¹ dots."""
        return torch.cholesky_solve(dots, torch.linalg.cholesky(gram))
