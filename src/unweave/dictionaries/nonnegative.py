"""What the non-negative factorisations share: codes by non-negative least squares, and the alternating fit.

scikit-learn has neither semi-NMF nor a factorisation with k active latents, and its NMF encodes new rows until the
batch as a whole has settled, so that a row's code depends on the rows beside it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.classical import ClassicalConfig, explained_variance, finite_moments, sample_rows
from unweave.dictionaries.one_sided import OneSidedConfig
from unweave.store.rows import MomentSums, RowSource

_CHUNK = 4096
_BLOCK = 32
_COLD_SWEEPS, _WARM_SWEEPS = 10, 2  # in an iteration of the fit
_PRUNE_TO = 0.8
_HOLD = 1e-6  # pull of a direction to where it was, in units of the latents' mean square
_PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class NonNegativeConfig(OneSidedConfig, ClassicalConfig):
    """Options of the non-negative factorisations."""

    fit_rows: int = 16_384
    "rows that the fit sees at most, drawn from the whole source; all of them where there are no more"
    d_sae: int = 64
    "number of latents; without k, as many as d_in or more fit nearly any rows and say little"
    sweeps: int = 100
    "passes over all latents in which the codes of a row are found, each d_sae² steps a row; with k, a fifth of them \
before codes are taken away, and after. Fewer are faster and less exact"
    tol: float = 1e-3
    "the fit has settled when its error falls by a smaller share in ten iterations"

    def __post_init__(self) -> None:
        OneSidedConfig.__post_init__(self)
        ClassicalConfig.__post_init__(self)
        if self.sweeps < 1:
            raise InputError(f"sweeps must be at least 1, got {self.sweeps}")
        if not self.tol >= 0:
            raise InputError(f"tol must be at least 0, got {self.tol}")

    @classmethod
    def example(cls) -> "NonNegativeConfig":
        """A small one that is fitted in a quarter of a second, for the conformance suite."""
        return cls(d_sae=32, k=3, fit_rows=512, max_iter=15)


class NonNegative(Dictionary):
    """f = argmin ‖x − f W_dec‖² over f ≥ 0; x̂ = f W_dec, with rows of W_dec [d_sae, d_in] of length 1.

    Codes come from cyclic coordinate descent, started at zero, `sweeps` times over all latents. Each pass sets f_j to
    max(0, f_j + (x − f W_dec)·w_j), the best value while the others stay. Rows do not see each other, and the number
    of passes is fixed, so that the code of a row is the same in every batch; sums are in float64 where the device has
    it, or rounding would add up. With k, the smallest codes are taken away, a fifth at a time, and the others fitted
    again until k are left: Peharz and Pernkopf (2012), "Sparse nonnegative matrix factorization with ℓ0-constraints".

    The fit alternates between such codes and the directions, on a sample of rows; k holds in it too. A latent that no
    row uses starts again at what is missing of the row that is met worst. The directions with the smallest error of
    all iterations stay. fit_rows · d_sae codes are in memory at a time.
    """

    trained_by_gradient: ClassVar[bool] = False
    finds_planted: ClassVar[bool] = True  # with k
    config: NonNegativeConfig
    W_dec: Tensor

    def __init__(self, config: NonNegativeConfig, d_in: int) -> None:
        super().__init__(config, d_in, config.d_sae)
        self.register_buffer("W_dec", torch.zeros(self.d_sae, d_in))

    def refuse(self, rows: RowSource) -> None:
        """Raise an `InputError` where rows that are finite and of the right width are not what this kind takes."""

    @abstractmethod
    def start(self, sample: Float[Tensor, "n d_in"], generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
        """Directions before the first iteration, of any length."""

    def admissible(self, direction: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
        """The nearest that a direction of this kind comes to a row."""
        return direction

    @abstractmethod
    def solve(
        self,
        gram: Float64[Tensor, "d_sae d_sae"],
        dots: Float64[Tensor, "d_sae d_in"],
        before: Float64[Tensor, "d_sae d_in"],
    ) -> Float64[Tensor, "d_sae d_in"]:
        """Directions W that fit rows x by their codes f, or fit better than `before`: gram W = dots.

        Args:
            gram: Σ fᵀf over rows, positive definite.
            dots: Σ fᵀx over rows.
            before: the directions of the last iteration.
        """

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Fit the directions to a sample of rows; `history` has a line for each iteration, out of `max_iter`.

        Raises:
            InputError: the rows are not finite, or not what this kind takes.
        """
        moments = finite_moments(self, rows)
        self.refuse(rows)
        sample = sample_rows(rows, self.config.fit_rows, generator)
        scale = moments.mean_square_norm**0.5 or 1.0
        fit = _Fit(self, (sample.double() / scale).float(), generator)
        while not fit.settled(self.config.tol) and len(fit.errors) < self.config.max_iter:
            fit.iterate()
        self.W_dec.copy_(fit.best)
        sums = MomentSums(self.d_in)
        sums.add(sample)
        errors = [error * scale**2 for error in fit.errors]
        self.history = {
            "step": [float(step) for step in range(1, len(errors) + 1)],
            "loss": errors,
            "explained_variance": [explained_variance(error, sums.moments()) for error in errors],
            "l0": fit.l0,
            "dead": fit.dead,
        }

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""
        exact = torch.float32 if x.device.type == "mps" else torch.float64  # Metal has no float64
        W = self.W_dec.to(exact)
        gram = W @ W.T
        parts = []
        for chunk in x.reshape(-1, self.d_in).split(_CHUNK):
            dots = W @ chunk.to(exact).T
            codes = torch.zeros_like(dots)
            if self.config.k is None:
                sweep(codes, dots, gram, times=self.config.sweeps)
            else:
                fifth = -(-self.config.sweeps // 5)
                sweep(codes, dots, gram, times=fifth)
                prune(codes, dots, gram, k=self.config.k, between=2, after=fifth)
            parts.append(codes.T.to(self.W_dec.dtype))
        return torch.cat(parts).reshape(*x.shape[:-1], self.d_sae)

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec."""
        return codes @ self.W_dec

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row: the rows of W_dec."""
        return self.W_dec


class _Fit:
    """The state of one alternating fit: directions, codes of every row, and how far off they were in each iteration."""

    def __init__(self, dictionary: NonNegative, sample: Float[Tensor, "n d_in"], generator: torch.Generator) -> None:
        self._dictionary = dictionary
        self._chunks = sample.split(_CHUNK)
        self._W = torch.nn.functional.normalize(dictionary.start(sample, generator), dim=1)
        self._codes = [torch.zeros(len(self._W), len(chunk)) for chunk in self._chunks]
        self.best = self._W
        self.errors: list[float] = []
        self.l0: list[float] = []
        self.dead: list[float] = []

    def settled(self, tol: float) -> bool:
        """Whether the best error of the last iterations is hardly below the best one before them."""
        if len(self.errors) <= _PATIENCE:
            return False
        return min(self.errors[-_PATIENCE:]) >= (1 - tol) * min(self.errors[:-_PATIENCE])

    def iterate(self) -> None:
        """Codes for these directions, then directions for these codes."""
        W = self._W
        gram = W @ W.T
        squares, dots = torch.zeros_like(gram, dtype=torch.float64), torch.zeros_like(W, dtype=torch.float64)
        fired = torch.zeros(len(W), dtype=torch.int64)
        errors = []
        for chunk, codes in zip(self._chunks, self._codes, strict=True):
            self._improve(codes, W @ chunk.T, gram)
            exact = codes.double()  # or rounding could make `squares` indefinite
            squares += exact @ exact.T
            dots += exact @ chunk.double()
            fired += (codes > 0).sum(1)
            errors.append((chunk - codes.T @ W).square().sum(1))
        error = torch.cat(errors)
        self.errors.append(float(error.double().mean()))
        self.l0.append(float(fired.sum()) / len(error))
        self.dead.append(float((fired == 0).sum()))
        if self.errors[-1] == min(self.errors):
            self.best = W
        self._update(squares, dots)
        self._revive((fired == 0).nonzero()[:, 0], error)

    def _improve(
        self, codes: Float[Tensor, "d_sae b"], dots: Float[Tensor, "d_sae b"], gram: Float[Tensor, "d_sae d_sae"]
    ) -> None:
        k = self._dictionary.config.k
        if k is not None:
            codes.zero_()  # the k that were best would hold their places, where `encode` chooses among all
        sweep(codes, dots, gram, times=_WARM_SWEEPS if self.errors and k is None else _COLD_SWEEPS)
        if k is not None:
            prune(codes, dots, gram, k=k, between=1, after=1)

    def _update(self, squares: Float64[Tensor, "d_sae d_sae"], dots: Float64[Tensor, "d_sae d_in"]) -> None:
        before = self._W.double()
        hold = _HOLD * float(squares.trace()) / len(squares) + torch.finfo(squares.dtype).tiny
        squares.diagonal().add_(hold)  # what no code asks for stays where it was
        solved = self._dictionary.solve(squares, dots + hold * before, before).float()
        length = solved.norm(dim=1, keepdim=True)
        self._W = torch.where(length > 0, solved / length.clamp_min(torch.finfo(length.dtype).tiny), self._W)
        for codes in self._codes:
            codes.mul_(length)

    def _revive(self, dead: Int64[Tensor, " dead"], error: Float[Tensor, " n"]) -> None:
        """Turn latents that no row uses to what is missing of the rows that are met worst, one row each."""
        worst = error.topk(min(len(dead), len(error))).indices
        for latent, row in zip(dead.tolist(), worst.tolist(), strict=False):
            chunk, place = divmod(row, _CHUNK)
            missing = self._chunks[chunk][place] - self._codes[chunk][:, place] @ self._W
            missing = self._dictionary.admissible(missing)
            if error[row] > 0 and missing.any():
                self._W[latent] = missing / missing.norm()


def sweep(
    codes: Float[Tensor, "m n"],
    dots: Float[Tensor, "m n"],
    gram: Float[Tensor, "m m"],
    *,
    times: int,
    allowed: Float[Tensor, "m n"] | None = None,
) -> None:
    """Improve the columns c ≥ 0 of `codes` in place: cyclic coordinate descent on cᵀ gram c / 2 − c·dots.

    Args:
        codes: where to start; changed in place.
        dots: the linear term, one column for each of `codes`.
        gram: the quadratic term, positive semi-definite.
        times: passes over all coordinates.
        allowed: 1 where an entry may be above 0, 0 where it may not.
    """
    diagonal = gram.diagonal()
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0).tolist()
    for _ in range(times):
        for first in range(0, len(codes), _BLOCK):  # one product for many coordinates, then what they do to each other
            block = slice(first, first + _BLOCK)
            left = torch.addmm(dots[block], gram[block], codes, alpha=-1)
            among = gram[block, block]
            for row, code in enumerate(codes[block]):
                new = torch.add(code, left[row], alpha=inverse[first + row]).clamp_min_(0)
                if allowed is not None:
                    new.mul_(allowed[first + row])
                left[row + 1 :].addr_(among[row + 1 :, row], new - code, alpha=-1)
                code.copy_(new)


def prune(
    codes: Float[Tensor, "m n"],
    dots: Float[Tensor, "m n"],
    gram: Float[Tensor, "m m"],
    *,
    k: int,
    between: int,
    after: int,
) -> None:
    """Take away the smallest entries of each column in place, a fifth at a time, until k are left.

    The others are fitted again each time, in `between` passes, and the last k in `after` passes.
    """
    kept = len(codes)
    while kept > k:
        kept = max(k, int(_PRUNE_TO * kept))
        value, index = codes.T.contiguous().topk(kept, sorted=False)  # along contiguous memory: half the time
        codes.zero_().scatter_(0, index.T, value.T)
        sweep(codes, dots, gram, times=between if kept > k else after, allowed=(codes > 0).to(codes.dtype))
