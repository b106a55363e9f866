"""The sparse step's operations on a CPU: compiled loops, shared by a team of threads.

Work is cut into pieces whose size depends on the shapes alone, so the result has the same bits for any number of
threads. Pre-activations exist for one piece at a time, small enough to stay in the cache.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unweave.dictionaries.kernels import loops
from unweave.dictionaries.kernels.base import EPSILON, Entries, Groups, Kernels, Moving, Precision, Revive, Rule
from unweave.dictionaries.kernels.team import Team

_PIECE_BYTES = 8 << 20
_PIECE_ROWS = 256
_LATENT_WORK = 1 << 18
_HAS_BFLOAT16: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
_Found = tuple[np.ndarray, np.ndarray, np.ndarray]


class CompiledKernels(Kernels):
    """Numba, for float32 on a CPU. The loops are compiled at their first use and kept on disk."""

    name: ClassVar[str] = "numba"

    def __init__(self, precision: Precision = "float32", *, workers: int = 1) -> None:
        super().__init__(precision)
        self._team = Team(workers)
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def __enter__(self) -> "CompiledKernels":
        self._team.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._team.stop()
        self._buffers.clear()

    def _buffer(self, name: str, worker: int, size: int, dtype: torch.dtype) -> Tensor:
        """Memory that is kept from step to step."""
        kept = self._buffers.get((name, worker))
        if kept is None or len(kept) < size:
            kept = self._buffers[name, worker] = torch.empty(size, dtype=dtype)
        return kept[:size]

    def encode(
        self,
        x: Float[Tensor, "b d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        rule: Rule,
        revive: Revive | None = None,
    ) -> tuple[Entries, Entries | None]:
        """What `rule` keeps of x W + bias, and the largest among the latents to revive."""
        x, weight, bias = x.detach(), weight.detach(), bias.detach()  # threads of the team record graphs by default
        rows, d_sae = len(x), weight.shape[1]
        piece = max(1, min(_PIECE_ROWS, _PIECE_BYTES // (4 * d_sae)))
        if self.precision == "bfloat16":
            x, weight = x.bfloat16(), self._halved(weight)
            if not _HAS_BFLOAT16:  # the same numbers, at float32's speed
                x, weight = x.float(), weight.float()
        above = _key(rule.guess) if rule.in_batch is not None else 0

        if revive is not None:
            dead = revive.latents.to(torch.int32).numpy()
            dead_bias = revive.bias_of(bias)

        def part(number: int, worker: int) -> tuple[_Found, _Found | None]:
            product = self._product(x[number * piece : (number + 1) * piece], weight, worker)
            found = self._select(product, bias, rule.per_row, above, worker)
            if revive is None:
                return found, None
            count, latent, key = self._select(product[:, revive.latents], dead_bias, revive.k, 0, worker)
            return found, (count, dead[latent], key)

        parts = self._team.each(-(-rows // piece), part)
        if above and sum(len(found[1]) for found, _ in parts) < min(rule.in_batch or 0, rows * d_sae):
            above = 0
            parts = self._team.each(-(-rows // piece), part)
        count, latent, key = _joined([found for found, _ in parts])
        if rule.in_batch is not None and len(key) > rule.in_batch:
            count, latent, key = _largest_in_batch(count, latent, key, rule.in_batch)
        revived = None if revive is None else _entries(*_joined([found for _, found in parts if found is not None]))
        return _entries(count, latent, key), revived

    def _halved(self, weight: Tensor) -> Tensor:
        """The weight in bfloat16, in the layout it has."""
        flat = weight.T
        half = self._buffer("weight", 0, flat.numel(), torch.bfloat16).view(flat.shape)
        step = max(1, _LATENT_WORK // flat.shape[1])

        def copy(number: int, _: int) -> None:
            half[number * step : (number + 1) * step].copy_(flat[number * step : (number + 1) * step])

        self._team.each(-(-len(flat) // step), copy)
        return half.T

    def _product(self, x: Tensor, weight: Tensor, worker: int) -> Tensor:
        """The bits of x W: of bfloat16 as int16, or of float32 as int32."""
        shape = (len(x), weight.shape[1])
        out = self._buffer("product", worker, shape[0] * shape[1], x.dtype).view(shape)
        torch.mm(x, weight, out=out)
        if self.precision == "bfloat16" and not _HAS_BFLOAT16:
            out.copy_(out.bfloat16())
        return out.view(_BITS[x.dtype])

    def _select(self, product: Tensor, bias: Tensor, per_row: int | None, above: int, worker: int) -> _Found:
        rows, width = product.shape
        most = rows * (width if per_row is None else min(per_row, width)) + 1
        latent = self._buffer("latent", worker, most, torch.int32).numpy()
        key = self._buffer("key", worker, most, torch.int32).numpy()
        count = np.empty(rows, np.int32)
        read = product.numpy(), np.int32(32 - 8 * product.itemsize), bias.numpy()
        if per_row is None:
            found = loops.positive(*read, above, count, latent, key)
        else:
            found = loops.largest(*read, min(per_row, width), count, latent, key)
        return count, latent[:found].copy(), key[:found].copy()

    def reconstruct(
        self,
        x: Float[Tensor, "b d_in"],
        entries: Entries,
        codes: Float[Tensor, " nnz"],
        decoder: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_in"],
    ) -> tuple[Float[Tensor, "b d_in"], Float[Tensor, " nnz"], Float[Tensor, ""]]:
        """Residual, its products with the active decoder rows, and its squared length over the batch."""
        residual = torch.empty_like(x)
        dots = torch.empty(len(entries.latent))
        arrays = [_array(t) for t in (x, entries.offsets, entries.latent, codes, decoder, bias, residual, dots)]

        def part(number: int, _: int) -> float:
            lo = number * _PIECE_ROWS
            return float(loops.reconstruct(*arrays, lo, min(len(x), lo + _PIECE_ROWS)))

        return residual, dots, torch.tensor(sum(self._team.each(-(-len(x) // _PIECE_ROWS), part)))

    def dots(
        self, rows: Float[Tensor, "b d_in"], entries: Entries, decoder: Float[Tensor, "d_sae d_in"]
    ) -> Float[Tensor, " nnz"]:
        """⟨rows_b, W_e⟩ of each entry."""
        dots = torch.empty(len(entries.latent))
        arrays = [_array(t) for t in (rows, entries.offsets, entries.latent, decoder, dots)]

        def part(number: int, _: int) -> None:
            loops.products(*arrays, number * _PIECE_ROWS, min(len(rows), (number + 1) * _PIECE_ROWS))

        self._team.each(-(-len(rows) // _PIECE_ROWS), part)
        return dots

    def group(self, entries: Entries, d_sae: int) -> Groups:
        """Entries sorted by latent, those of one latent by row."""
        starts = torch.empty(d_sae + 1, dtype=torch.int32)
        order, row = torch.empty_like(entries.latent), torch.empty_like(entries.latent)
        loops.group(*[_array(t) for t in (entries.offsets, entries.latent, starts, order, row)])
        return Groups(starts, order, row)

    def accumulate(
        self,
        groups: Groups,
        weight: Float[Tensor, " nnz"],
        rows: Float[Tensor, "b d_in"],
        *,
        out: Float[Tensor, "d_sae d_in"],
        scale: float = 1.0,
        add: bool = False,
    ) -> None:
        """Sums of weighted rows by latent."""
        starts, order, row, weights, x, sums = [
            _array(t) for t in (groups.starts, groups.order, groups.row, weight, rows, out)
        ]
        work = len(row) + len(out)  # an entry costs about what an empty latent costs
        pieces = max(1, work * rows.shape[1] // _LATENT_WORK)
        bounds = [0, len(out)]
        if pieces > 1:
            shares = np.arange(1, pieces) * work // pieces
            bounds[1:1] = np.searchsorted(starts + np.arange(len(starts)), shares).tolist()

        def part(number: int, _: int) -> None:
            lo, hi = bounds[number], bounds[number + 1]
            loops.accumulate(starts, order, row, weights, np.float32(scale), x, sums, add, lo, hi)

        self._team.each(pieces, part)

    def sums(self, groups: Groups, weight: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        """Σ weight_e over the entries of each latent, in float64."""
        out = torch.empty(len(groups.starts) - 1)
        loops.sums(_array(groups.starts), _array(groups.order), _array(weight), out.numpy())
        return out

    def fired(self, entries: Entries, groups: Groups, codes: Float[Tensor, " nnz"]) -> Int[Tensor, " d_sae"]:
        """On how many rows each latent's code is not zero."""
        out = torch.empty(len(groups.starts) - 1, dtype=torch.int32)
        loops.fired(_array(entries.latent), _array(codes), out.numpy())
        return out

    def adam(self, moving: Sequence[Moving], *, step: int, betas: tuple[float, float]) -> None:
        """Adam and what keeps rows at length 1, in one pass over each parameter."""
        first, root = 1 - betas[0] ** step, (1 - betas[1] ** step) ** -0.5
        constants = [np.float32(number) for number in (*betas, root, EPSILON)]
        pieces = []
        for one in moving:
            arrays = [_array(t) for t in (one.weight, one.gradient, one.first, one.second)]
            arguments = (*arrays, np.float32(one.rate / first), *constants, one.unit)
            rows, width = one.weight.shape
            most = max(1, _LATENT_WORK // width)
            pieces += [(*arguments, lo, min(rows, lo + most)) for lo in range(0, rows, most)]
        self._team.each(len(pieces), lambda number, _: loops.adam(*pieces[number]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()


def _key(value: float) -> int:
    return int(np.float32(max(value, 0.0)).view(np.int32))


def _joined(parts: list[_Found]) -> _Found:
    if len(parts) == 1:
        return parts[0]
    count, latent, key = zip(*parts, strict=True)
    return np.concatenate(count), np.concatenate(latent), np.concatenate(key)


def _largest_in_batch(count: np.ndarray, latent: np.ndarray, key: np.ndarray, most: int) -> _Found:
    """The largest entries of a batch; of equal ones, the first."""
    least = np.partition(key, len(key) - most)[len(key) - most]
    keep = key > least
    ties = np.flatnonzero(key == least)[: most - int(keep.sum())]
    keep[ties] = True
    kept = np.concatenate([[0], np.cumsum(keep)])
    ends = np.cumsum(count)
    return np.diff(kept[ends], prepend=0).astype(np.int32), latent[keep], key[keep]


def _entries(count: np.ndarray, latent: np.ndarray, key: np.ndarray) -> Entries:
    offsets = np.zeros(len(count) + 1, np.int32)
    np.cumsum(count, out=offsets[1:])
    return Entries(torch.from_numpy(offsets), torch.from_numpy(latent), torch.from_numpy(key.view(np.float32)))
