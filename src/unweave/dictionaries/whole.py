"""A batch of which each process holds some rows: what a loss needs to know of all of them.

Losses are written as means over the rows that are here. The gradients of the processes are then added up, each weighted
with the process's `part` of all rows, which is the gradient of the whole batch wherever the loss is a mean over rows.
What is not (a penalty on the mean number of active latents, a largest entry of the batch) asks here.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unweave.core.distributed import ALONE, Ranks
from unweave.dictionaries.kernels import Entries, Kernels, Revive, Rule


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """The whole of a batch.

    Attributes:
        rows: how many it has.
        part: share of them that is here. A process without a row computes on one that counts for nothing: part 0.
        ranks: the processes that hold the others.
        latents: the processes over which the latents are split, where each holds some of them; all see every row.
    """

    rows: int | None = None
    part: float = 1.0
    ranks: Ranks = ALONE
    latents: Ranks = ALONE

    @property
    def alone(self) -> bool:
        """Whether all of it is here."""
        return self.ranks.size == 1

    def rows_beside(self, here: int) -> int:
        """Rows of the whole, for the process that holds so many."""
        return here if self.rows is None else self.rows

    def mean(self, here: Tensor) -> Tensor:
        """The mean over the whole batch of what is given as a mean over the rows here.

        Its gradient reaches the rows here as if they were all: weighted with `part` and added up over the processes it
        is that of the whole.
        """
        if self.alone:
            return here
        total = (here.detach() * self.part).contiguous()
        self.ranks.sum(total)
        return here + (total - here.detach())

    def joined(self, rows: Float[Tensor, "b d_in"]) -> Float[Tensor, "all d_in"]:
        """All rows, on every process."""
        return rows if self.alone else torch.cat(self.ranks.gather_rows(rows if self.part > 0 else rows[:0]))

    def smallest(self, here: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The smallest value of all processes; one without a row gives infinity."""
        return self.latents.smallest(self.ranks.smallest(here))

    def over_latents(self, here: Tensor) -> Tensor:
        """The sum over all latents of what is given as a sum over those here; without a graph where they are split."""
        if self.latents.size == 1:
            return here
        total = here.detach().clone()
        self.latents.sum(total)
        return total

    def largest(self, values: Float[Tensor, " m"], most: int) -> Bool[Tensor, " m"]:
        """Which of these are among the `most` largest of all processes' values; of equal ones, the first.

        Only values that can be among them need to be given.
        """
        everyone = self.ranks.gather_rows(values if self.part > 0 else values[:0])
        everything = torch.cat(everyone)
        if self.part == 0:
            return torch.zeros_like(values, dtype=torch.bool)
        if len(everything) <= most:
            return torch.ones_like(values, dtype=torch.bool)
        bound = everything.topk(most, sorted=True).values[-1]
        room = most - (everything > bound).sum()
        before = sum(((other == bound).sum() for other in everyone[: self.ranks.rank]), room.new_zeros(()))
        equal = values == bound
        return ~(values <= bound) | (equal & (equal.cumsum(0) + before <= room))  # NaN stays: it has to be seen


def find_entries(
    kernels: Kernels,
    centred: Float[Tensor, "b d_in"],
    weight: Float[Tensor, "d_in d_sae"],
    bias: Float[Tensor, " d_sae"],
    rule: Rule,
    revive: Revive | None,
    whole: WholeBatch,
) -> tuple[Entries, Entries | None]:
    """`Kernels.encode`, with what a rule keeps of a batch chosen from the whole of it.

    A process offers those of its entries that exceed the rule's guess. Where all offers together are too few, it offers
    its largest, as many as the whole batch keeps.
    """
    most = rule.in_batch
    if whole.alone or most is None:
        return kernels.encode(centred, weight, bias, rule, revive)
    entries: Entries | None = None
    if rule.guess > 0:
        shifted = revive
        if revive is not None:
            raised = bias.new_full((len(revive.latents),), rule.guess)
            shifted = dataclasses.replace(revive, shift=raised if revive.shift is None else revive.shift + raised)
        found, revived = kernels.encode(centred, weight, bias - rule.guess, Rule(), shifted)
        offered = (found.value > 0).sum() if whole.part > 0 else found.value.new_zeros((), dtype=torch.int64)
        whole.ranks.sum(offered)
        if int(offered) >= most:
            entries = Entries(found.offsets, found.latent, found.value + rule.guess)
    if entries is None:
        all_here = len(centred) * weight.shape[1]
        entries, revived = kernels.encode(centred, weight, bias, Rule(in_batch=min(most, all_here)), revive)
    positive = ((entries.value > 0) | entries.value.isnan()).nonzero().squeeze(1)
    return some_of(entries, positive[whole.largest(entries.value[positive], most)]), revived


def some_of(entries: Entries, chosen: Int64[Tensor, " some"]) -> Entries:
    """Some entries, in their order."""
    offsets = torch.searchsorted(chosen, entries.offsets.long()).to(torch.int32)
    return Entries(offsets, entries.latent[chosen], entries.value[chosen])
