"""What every data set offers that is no images but rows whose sources are known."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import Component, Registry
from unweave.datasets.base import Split


@dataclass(frozen=True, eq=False)
class KnownRows:
    """Rows, and what they were made of: the truth that a dictionary of them should find.

    Attributes:
        rows: the data.
        sources: how much of each source lies in each row.
        directions: what one unit of each source adds to a row; None where rows are not such sums.
    """

    rows: Float[Tensor, "n d_in"]
    sources: Float[Tensor, "n n_sources"]
    directions: Float[Tensor, "n_sources d_in"] | None = None


@dataclass(frozen=True, kw_only=True)
class RowsConfig(Component, ABC):
    """Base of configurations of rows with known sources."""

    registry: ClassVar[Registry[type[Component]]] = Registry("row data set", "unweave.datasets")

    n: int = 20_000
    "rows, unless another number is asked for"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"n must be at least 1, got {self.n}")

    def make(self, n: int | None = None, *, seed: int, split: Split = "train") -> KnownRows:
        """Make rows.

        Args:
            n: how many; `self.n` by default.
            seed: decides everything that is drawn.
            split: held-out rows (test) are other rows of the same sources and directions than those to train on.

        Raises:
            InputError: n is below 1.
        """
        n = self.n if n is None else n
        if n < 1:
            raise InputError(f"n must be at least 1, got {n}")
        return self._make(n, seed, split)

    @abstractmethod
    def _make(self, n: int, seed: int, split: Split) -> KnownRows:
        """So many rows of one split."""
