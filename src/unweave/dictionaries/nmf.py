"""Non-negative matrix factorisation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.nonnegative import NonNegative, NonNegativeConfig, sweep
from unweave.store.rows import RowSource

_BLOCK_ROWS = 8192


@register("nmf")
@dataclass(frozen=True, kw_only=True)
class NMF(NonNegativeConfig):
    """Non-negative matrix factorisation: rows ≥ 0 are sums of parts ≥ 0, x ≈ f W with f ≥ 0 and W ≥ 0.

    Lee and Seung (1999), "Learning the parts of objects by non-negative matrix factorization"; by hierarchical
    alternating least squares, Cichocki and Phan (2009), "Fast local algorithms for large scale nonnegative matrix and
    tensor factorizations". There is no bias: zero is where parts begin. It takes rows that are nowhere negative, such
    as what comes behind a ReLU; `semi-nmf` takes any.
    """

    def build(self, d_in: int) -> "NMFDictionary":
        """A dictionary of d_sae latents."""
        return NMFDictionary(self, d_in)


class NMFDictionary(NonNegative):
    """f = argmin ‖x − f W_dec‖² over f ≥ 0; x̂ = f W_dec with W_dec ≥ 0."""

    non_negative_rows: ClassVar[bool] = True
    config: NMF

    def refuse(self, rows: RowSource) -> None:
        """Read all rows once, and refuse negative entries."""
        entries, first, seen = 0, -1, 0
        for block in rows.blocks(_BLOCK_ROWS):
            negative = (block < 0).sum(1)
            if first < 0 and bool(negative.any()):
                first = seen + int(negative.nonzero()[0])
            entries += int(negative.sum())
            seen += len(block)
        if entries:
            raise InputError(
                f"nmf takes rows without negative entries, these have {entries:,} of them, the first in row {first:,}; "
                "use semi-nmf, or capture what comes behind a ReLU"
            )

    def start(self, sample: Float[Tensor, "n d_in"], generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Directions drawn evenly from the unit cube."""
        return torch.rand(self.d_sae, self.d_in, generator=generator)

    def admissible(self, direction: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
        """Its positive part."""
        return torch.relu(direction)

    def solve(
        self,
        gram: Float64[Tensor, "d_sae d_sae"],
        dots: Float64[Tensor, "d_sae d_in"],
        before: Float64[Tensor, "d_sae d_in"],
    ) -> Float64[Tensor, "d_sae d_in"]:
        """One pass over the directions, each set to its best non-negative value while the others stay."""
        improved = before.clone()
        sweep(improved, dots, gram, times=1)
        return improved
