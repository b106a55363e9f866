"""The sparse step's operations on a GPU, as Triton programs.

Pre-activations are written once, by the encoder's product, and read where they are selected; rows of the decoder are
read only where an entry names them. Sums are taken in one order, so that a step gives the same bits every time.
"""

from typing import ClassVar

import torch
import triton
from jaxtyping import Float, Int32
from torch import Tensor

from unweave.dictionaries.kernels import programs
from unweave.dictionaries.kernels.base import Entries, Groups, Revive, Rule
from unweave.dictionaries.kernels.reference import TorchKernels

_COLUMNS = 256
_TOGETHER = 8
_ENTRIES_A_PROGRAM = 64
_SCAN = 1024
_BITS = 3  # fewer mean more readings, more mean more to count
_CHUNK = 128
_MOST_CHUNKS = 8192


class TritonKernels(TorchKernels):
    """Triton, for float32 on a CUDA device.

    Nothing waits for the device, with one exception: where a rule keeps all that is positive, `encode` asks once how
    many entries that is. The encoder's product is torch's own, and whether it takes TF32 is torch's setting; Adam is
    torch's as well.
    """

    name: ClassVar[str] = "triton"

    def encode(
        self,
        x: Float[Tensor, "b d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        rule: Rule,
        revive: Revive | None = None,
    ) -> tuple[Entries, Entries | None]:
        """What `rule` keeps of x W + bias, and the largest among the latents to revive.

        The number of entries follows from `rule` and the shapes alone, except for what keeps all positive ones. Of
        equal pre-activations, the first are kept.
        """
        x, weight, bias = x.detach(), weight.detach(), bias.detach().contiguous()
        pre = x.bfloat16() @ weight.bfloat16() if self.precision == "bfloat16" else x @ weight
        with torch.cuda.device_of(pre):
            if rule.per_row is not None:
                entries = _largest(pre, bias, rule.per_row)
            elif rule.in_batch is not None:
                entries = _largest_in_batch(pre, bias, rule.in_batch)
            else:
                entries = _positive(pre, bias)
            if revive is None:
                return entries, None
            return entries, _largest(pre, revive.bias_of(bias), revive.k, revive.latents)

    def reconstruct(
        self,
        x: Float[Tensor, "b d_in"],
        entries: Entries,
        codes: Float[Tensor, " nnz"],
        decoder: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_in"],
    ) -> tuple[Float[Tensor, "b d_in"], Float[Tensor, " nnz"], Float[Tensor, ""]]:
        """Residual, its products with the active decoder rows, and its squared length over the batch."""
        x, decoder = x.contiguous(), decoder.detach().contiguous()
        rows, d_in = x.shape
        block = _block(d_in, _COLUMNS)
        residual = torch.empty_like(x)
        squares = x.new_empty(rows, triton.cdiv(d_in, block))
        with torch.cuda.device_of(x):
            programs.residual[squares.shape](
                x, bias.detach().contiguous(), entries.offsets, entries.latent, codes.contiguous(), decoder,
                residual, squares, d_in, BLOCK=block, ENTRIES=_TOGETHER,
            )  # fmt: skip
        return residual, self.dots(residual, entries, decoder), squares.sum()

    def dots(
        self, rows: Float[Tensor, "b d_in"], entries: Entries, decoder: Float[Tensor, "d_sae d_in"]
    ) -> Float[Tensor, " nnz"]:
        """⟨rows_b, W_e⟩ of each entry."""
        rows, decoder = rows.contiguous(), decoder.detach().contiguous()
        dots = rows.new_empty(len(entries.latent))
        share = min(64, triton.cdiv(len(dots), len(rows) * _ENTRIES_A_PROGRAM))
        if share:
            with torch.cuda.device_of(rows):
                programs.products[(len(rows), share)](
                    rows, entries.offsets, entries.latent, decoder, dots, rows.shape[1],
                    BLOCK=_block(rows.shape[1], _COLUMNS // 2), ENTRIES=2 * _TOGETHER,
                )  # fmt: skip
        return dots

    def group(self, entries: Entries, d_sae: int) -> Groups:
        """Entries sorted by latent, those of one latent by row."""
        latent, order = entries.latent.sort(stable=True)
        bounds = torch.arange(d_sae + 1, dtype=torch.int32, device=latent.device)
        starts = torch.searchsorted(latent, bounds, out_int32=True)  # bincount would wait for the device
        order = order.to(torch.int32)
        row = torch.searchsorted(entries.offsets, order, right=True, out_int32=True).sub_(1)
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
        """Sums of weighted rows by latent.

        A latent with many entries would keep one program busy while all others are done. So those of its entries that
        fill whole chunks are summed first, chunk by chunk.
        """
        weight, rows = weight.contiguous(), rows.contiguous()
        d_sae, d_in = out.shape
        block = _block(d_in, _COLUMNS)
        parts = triton.cdiv(d_in, block)
        chunk = max(_CHUNK, triton.next_power_of_2(triton.cdiv(len(groups.row), _MOST_CHUNKS)))
        partial = rows.new_empty(len(groups.row) // chunk, d_in)
        entries = groups.starts, groups.order, groups.row, weight, rows, partial
        with torch.cuda.device_of(rows):
            if len(partial):
                programs.chunks[(len(partial), parts)](*entries, d_sae, d_in, chunk, BLOCK=block, ENTRIES=_TOGETHER)
            programs.accumulate[(d_sae, parts)](
                *entries, out.detach(), *out.stride(), d_in, chunk, scale, ADD=add, BLOCK=block, ENTRIES=_TOGETHER
            )

    def sums(self, groups: Groups, weight: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        """Σ weight_e over the entries of each latent, in float64."""
        out = weight.new_empty(len(groups.starts) - 1)
        with torch.cuda.device_of(weight):
            programs.sums[(len(out),)](groups.starts, groups.order, weight.contiguous(), out, BLOCK=_COLUMNS)
        return out


def _block(size: int, most: int) -> int:
    return int(max(16, min(most, triton.next_power_of_2(size))))


def _entries(offsets: Tensor, count: int, *, padded: bool) -> Entries:
    """Entries yet to be written."""
    latent = torch.empty(count, dtype=torch.int32, device=offsets.device)
    return Entries(offsets, latent, torch.empty_like(latent, dtype=torch.float32), padded=padded)


def _largest(pre: Tensor, bias: Tensor, k: int, among: Tensor | None = None) -> Entries:
    """The k largest entries of each row, among some latents or all of them, which have the biases given."""
    rows, width = len(pre), len(bias)
    k = min(k, width)
    offsets = torch.arange(0, rows * k + 1, k, dtype=torch.int32, device=pre.device)
    entries = _entries(offsets, rows * k, padded=True)
    programs.largest[(rows,)](
        pre, bias, bias if among is None else among.contiguous(), entries.latent, entries.value, pre.shape[1], width, k,
        CHOSEN=among is not None, BLOCK=_block(width, _SCAN),
    )  # fmt: skip
    return entries


def _largest_in_batch(pre: Tensor, bias: Tensor, most: int) -> Entries:
    """The largest entries of the batch. The bound that they reach is found a few bits at a time, the highest first."""
    rows, d_sae = pre.shape
    most = min(most, pre.numel())
    least = torch.zeros(1, dtype=torch.int32, device=pre.device)
    digits = 1 << _BITS
    counts = least.new_empty(rows, digits)
    block = _block(d_sae, _SCAN // 2)
    for shift in reversed(range(0, 31, _BITS)):
        programs.reach[(rows,)](pre, bias, least, counts, d_sae, shift, DIGITS=digits, BLOCK=block)
        programs.narrow[(1,)](counts, least, rows, most, shift, DIGITS=digits, BLOCK=_COLUMNS)
    above, equal = _tally(pre, bias, least)
    ties = (most - above.sum() - equal.cumsum(0) + equal).clamp_min(0).minimum(equal)
    return _collect(pre, bias, least, _offsets(above + ties), ties, most, padded=True)


def _positive(pre: Tensor, bias: Tensor) -> Entries:
    """All positive entries. Waits for the device, to learn their number."""
    none = torch.zeros(1, dtype=torch.int32, device=pre.device)
    above, _ = _tally(pre, bias, none)
    offsets = _offsets(above)
    return _collect(pre, bias, none, offsets, torch.zeros_like(above), int(offsets[-1]), padded=False)


def _tally(pre: Tensor, bias: Tensor, least: Tensor) -> tuple[Int32[Tensor, " b"], Int32[Tensor, " b"]]:
    """How many entries of each row lie above a bound, and how many equal it."""
    above, equal = torch.empty(2, len(pre), dtype=torch.int32, device=pre.device)
    programs.tally[(len(pre),)](pre, bias, least, above, equal, pre.shape[1], BLOCK=_block(pre.shape[1], _SCAN))
    return above, equal


def _offsets(count: Tensor) -> Tensor:
    return torch.nn.functional.pad(count.cumsum(0, dtype=torch.int32), (1, 0))


def _collect(
    pre: Tensor, bias: Tensor, least: Tensor, offsets: Tensor, ties: Tensor, count: int, *, padded: bool
) -> Entries:
    """Each row's entries above a bound, and the first so many of those that equal it."""
    entries = _entries(offsets, count, padded=padded)
    programs.collect[(len(pre),)](
        pre, bias, least, ties.to(torch.int32), offsets, entries.latent, entries.value, pre.shape[1],
        BLOCK=_block(pre.shape[1], _SCAN),
    )  # fmt: skip
    return entries
