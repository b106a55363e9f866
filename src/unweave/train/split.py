"""A dictionary split over processes: each holds a run of consecutive latents, and all see every batch.

What belongs to a latent (its column of W_enc, its row of W_dec, its biases, moments and clocks) exists on one process
only. A step encodes the process's own latents; which of them stay active is decided over all, from the candidates that
each process offers; the processes' reconstructions are added up. So no process ever forms codes [b, d_sae], and what
travels are candidates [b, k] and reconstructions [b, d_in].
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.kernels import Entries, Groups, Kernels, Moving, Revive, Rule
from unweave.dictionaries.whole import WholeBatch, find_entries, some_of

_CAN_SPLIT = ("topk", "batch-topk", "jumprelu", "relu", "relu-kl", "gated")


class SplitKernels(Kernels):
    """The operations over one process's latents, where those of the others have a say in them.

    Args:
        inner: the operations of this process.
        ranks: the processes that hold the latents.
        revived: latents that a row may revive at most, over all processes.
    """

    def __init__(self, inner: Kernels, ranks: Ranks, revived: int) -> None:
        super().__init__(inner.precision)
        self.name = f"{inner.name}, latents split"  # type: ignore[misc]
        self._inner, self._ranks, self._revived = inner, ranks, revived

    def __enter__(self) -> "SplitKernels":
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def encode(
        self,
        x: Float[Tensor, "b d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        rule: Rule,
        revive: Revive | None = None,
    ) -> tuple[Entries, Entries | None]:
        """What `rule` keeps of this process's latents once all processes have offered theirs."""
        everyone = WholeBatch(len(x), 1.0, self._ranks)
        local = rule if rule.per_row is None else Rule(per_row=min(rule.per_row, weight.shape[1]))
        entries, revived = find_entries(self._inner, x, weight, bias, local, revive, everyone)
        if rule.per_row is not None:
            entries = self._largest_per_row(entries, rule.per_row)
        dead = torch.tensor(0 if revive is None else len(revive.latents), device=x.device)
        self._ranks.sum(dead)
        if not int(dead):
            return entries, None
        if revived is None:
            none = entries.latent[:0]
            revived = Entries(torch.zeros_like(entries.offsets), none, entries.value[:0])
        return entries, self._largest_per_row(revived, min(self._revived, int(dead)))

    def _largest_per_row(self, entries: Entries, k: int) -> Entries:
        """Those of the entries that are among the k largest of their row over all processes; of equal ones the first.

        NaN counts as largest.
        """
        counts = entries.offsets.diff().long()
        row = torch.repeat_interleave(counts, output_size=len(entries.value))
        column = torch.arange(len(row), device=row.device) - entries.offsets[:-1].long()[row]
        width = -int(self._ranks.smallest(-counts.max()))
        offered = entries.value.new_full((entries.rows, width), -torch.inf)
        offered[row, column] = entries.value
        if width * self._ranks.size <= k:
            return some_of(entries, _counting(entries.value))
        others = self._ranks.gather_rows(offered)
        everything = torch.cat(others, 1)
        bound = everything.topk(min(k, everything.shape[1]), dim=1).values[:, -1:]
        room = k - (everything > bound).sum(1, keepdim=True)
        before = sum(((other == bound).sum(1, keepdim=True) for other in others[: self._ranks.rank]), room * 0)
        equal = offered == bound
        keep = ~(offered <= bound) | (equal & (equal.cumsum(1) + before <= room))
        chosen = keep[row, column]
        return some_of(entries, _counting(torch.where(chosen, entries.value, 0.0)))

    def reconstruct(
        self,
        x: Float[Tensor, "b d_in"],
        entries: Entries,
        codes: Float[Tensor, " nnz"],
        decoder: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_in"],
    ) -> tuple[Float[Tensor, "b d_in"], Float[Tensor, " nnz"], Float[Tensor, ""]]:
        """The residual of all processes' reconstruction, and its products with the entries of this one."""
        less_own, _, _ = self._inner.reconstruct(torch.zeros_like(x), entries, codes, decoder, torch.zeros_like(bias))
        less = less_own.contiguous()
        self._ranks.sum(less)
        residual = x - bias + less
        return residual, self._inner.dots(residual, entries, decoder), residual.square().sum()

    def dots(
        self, rows: Float[Tensor, "b d_in"], entries: Entries, decoder: Float[Tensor, "d_sae d_in"]
    ) -> Float[Tensor, " nnz"]:
        """⟨rows_b, W_e⟩ of each entry."""
        return self._inner.dots(rows, entries, decoder)

    def group(self, entries: Entries, d_sae: int) -> Groups:
        """Entries sorted by latent."""
        return self._inner.group(entries, d_sae)

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
        self._inner.accumulate(groups, weight, rows, out=out, scale=scale, add=add)

    def adam(self, moving: Sequence[Moving], *, step: int, betas: tuple[float, float]) -> None:
        """One step of Adam."""
        self._inner.adam(moving, step=step, betas=betas)

    def sums(self, groups: Groups, weight: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        """Σ weight_e over the entries of each latent."""
        return self._inner.sums(groups, weight)

    def fired(self, entries: Entries, groups: Groups, codes: Float[Tensor, " nnz"]) -> Int[Tensor, " d_sae"]:
        """On how many rows each latent's code is not zero."""
        return self._inner.fired(entries, groups, codes)


def revived_at_most(dictionary: Dictionary) -> int:
    """Dead latents that a row may revive."""
    return getattr(dictionary.config, "aux_k", None) or max(1, dictionary.d_in // 2)


def _counting(value: Tensor) -> Tensor:
    """Numbers of the entries that stand for something."""
    return ((value > 0) | value.isnan()).nonzero().squeeze(1)


class Split:
    """Which latents a process holds, and how whole tensors and its own come from each other.

    Raises:
        InputError: the kind cannot be split, or a process would hold no latent.
    """

    def __init__(self, config: DictionaryConfig, d_in: int, ranks: Ranks) -> None:
        if config.kind not in _CAN_SPLIT or getattr(config, "resample", None) is not None:
            raise InputError(
                f"{config.kind} cannot be split over ranks: only {', '.join(_CAN_SPLIT)} can, and only without "
                "resample; leave --split-latents out"
            )
        self._config, self._d_in, self.ranks = config, d_in, ranks
        self.d_sae = int(config.d_sae)  # type: ignore[attr-defined]
        if self.d_sae < ranks.size:
            raise InputError(f"{self.d_sae} latents cannot be split over {ranks.size} ranks; use fewer ranks")
        self.start, self.stop = ranks.bounds(self.d_sae)

    def take(self, whole: Dictionary) -> Dictionary:
        """This process's part of the dictionary that the first one has set the start of."""
        own = replace(self._config, d_sae=self.stop - self.start).build(self._d_in)  # type: ignore[call-arg]
        self.scatter(whole.state_dict() if self.ranks.first else None, own.state_dict())
        return own

    @torch.no_grad()
    def assembled(self, own: Dictionary) -> Dictionary:
        """The whole dictionary in the memory of every process's machine, from the parts of all."""
        whole = self._config.build(self._d_in)
        if self.ranks.first:
            whole.load_state_dict(self.gather(own.state_dict()))
        else:
            self.gather(own.state_dict())
        self.ranks.take_first(*whole.state_dict().values())
        whole.hook_name = own.hook_name
        return whole

    def agree(self, due: bool) -> bool:
        """What the first process says, on all."""
        said = torch.tensor(int(due and self.ranks.first))
        self.ranks.sum(said)
        return bool(said)

    def axis(self, name: str, tensor: Tensor, d_sae: int) -> int | None:
        """Along which axis of a state's tensor latents lie; None where it is the same for all processes."""
        last = name.removesuffix(".first").removesuffix(".second").rpartition(".")[2]
        if last in {"b_dec", "now"} or not tensor.ndim:
            return None
        if last in {"W_enc", "last_fired", "delayed"}:
            return 1
        return 0 if tensor.shape[0] == d_sae else None

    def scatter(self, whole: Mapping[str, Tensor] | None, into: Mapping[str, Tensor]) -> None:
        """Give every process its part of the first one's tensors."""
        for name, own in into.items():
            axis = self.axis(name, own, self.stop - self.start)
            for rank in reversed(range(self.ranks.size)):
                start, stop = self.d_sae * rank // self.ranks.size, self.d_sae * (rank + 1) // self.ranks.size
                if self.ranks.first:
                    assert whole is not None
                    part = whole[name] if axis is None else whole[name].narrow(axis, start, stop - start)
                    part = part.detach().cpu().contiguous()
                    if rank:
                        dist.send(part, rank)
                    else:
                        own.copy_(part)
                elif rank == self.ranks.rank:
                    part = torch.empty(own.shape, dtype=own.dtype)
                    dist.recv(part, 0)
                    own.copy_(part)

    def part_of(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of whole tensors."""
        parts = {}
        for name, tensor in whole.items():
            axis = self.axis(name, tensor, self.d_sae)
            parts[name] = tensor if axis is None else tensor.narrow(axis, self.start, self.stop - self.start)
        return parts

    def gather(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the first process's memory, from the parts of all; nothing on the others."""
        found: dict[str, Tensor] = {}
        for name, tensor in own.items():
            axis = self.axis(name, tensor, self.stop - self.start)
            part = tensor.detach().cpu().contiguous()
            if axis is None:
                found[name] = part
            elif not self.ranks.first:
                dist.send(part, 0)
            else:
                parts = [part]
                for rank in range(1, self.ranks.size):
                    length = self.d_sae * (rank + 1) // self.ranks.size - self.d_sae * rank // self.ranks.size
                    shape = [length if at == axis else size for at, size in enumerate(part.shape)]
                    parts.append(torch.empty(shape, dtype=part.dtype))
                    dist.recv(parts[-1], rank)
                found[name] = torch.cat(parts, axis)
        return found if self.ranks.first else {}

    @torch.no_grad()
    def complete(self, dictionary: Any) -> None:
        """Make the gradient of b_dec that of all latents, the same bits on every process."""
        own = torch.mv(dictionary.W_enc, dictionary.b_enc.grad)
        total = own.clone()
        self.ranks.sum(total)
        dictionary.b_dec.grad.add_(own - total)
        self.ranks.take_first(dictionary.b_dec.grad)
