"""How well rows are reconstructed."""

import torch
from jaxtyping import Float
from torch import Tensor

_LAST_BIT = torch.finfo(torch.float32).eps  # a network gives equal inputs rows that differ by so much


class ReconstructionSums:
    """Sums over rows and their reconstructions, in float64: the results do not depend on the batch size."""

    def __init__(self, d_in: int) -> None:
        self.n = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._square = 0.0
        self._size = 0.0
        self._error = 0.0

    def add(self, x: Float[Tensor, "b d_in"], x_hat: Float[Tensor, "b d_in"]) -> None:
        """Take in a batch."""
        if not len(x):
            return
        exact = x.detach().cpu().double()
        if self._shift is None:  # squares about a value near the mean keep their digits
            self._shift = exact[0].clone()
        centred = exact - self._shift
        self.n += len(exact)
        self._sum += centred.sum(0)
        self._square += float(centred.square().sum())
        self._size += float(exact.square().sum())
        self._error += float((exact - x_hat.detach().cpu().double()).square().sum())

    @property
    def sum_squares(self) -> float:
        """Mean over rows of ‖x − x̂‖²."""
        return self._error / self.n

    @property
    def _scatter(self) -> float:
        """Σ‖x − mean‖²; 0 where all rows are the same, up to rounding: to a bit of float32, or of these sums."""
        scatter = self._square - float(self._sum.square().sum()) / self.n
        return scatter if scatter > max(_LAST_BIT**2 * self._size, 1e-12 * self._square, 1e-312) else 0.0

    @property
    def variance(self) -> float:
        """Mean over rows of ‖x − mean‖² with the mean of all rows; 0 where all rows are the same."""
        return self._scatter / self.n

    @property
    def explained_variance(self) -> float:
        """1 − Σ‖x − x̂‖² / Σ‖x − mean‖² with the mean of all rows; NaN where all rows are the same."""
        scatter = self._scatter
        return 1 - self._error / scatter if scatter > 0 else float("nan")
