"""The sparse step's operations in plain torch: the specification of the others, and what runs where they cannot."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.optim.adam import adam

from unweave.dictionaries.kernels.base import EPSILON, Entries, Groups, Kernels, Moving, Revive, Rule


class TorchKernels(Kernels):
    """Plain torch, on any device. No step waits for the device, except where a rule keeps an unknown number."""

    name: ClassVar[str] = "torch"

    def encode(
        self,
        x: Float[Tensor, "b d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        rule: Rule,
        revive: Revive | None = None,
    ) -> tuple[Entries, Entries | None]:
        """What `rule` keeps of x W + bias, and the largest among the latents to revive."""
        if self.precision == "bfloat16":
            pre = (x.bfloat16() @ weight.bfloat16()).float() + bias
        else:
            pre = torch.addmm(bias, x, weight)
        if revive is None:
            return self.select(pre, rule), None
        found = _largest_per_row(revive.of(pre), min(revive.k, len(revive.latents)))
        latent = revive.latents[found.latent.long()].to(torch.int32)
        return self.select(pre, rule), Entries(found.offsets, latent, found.value, padded=True)

    def select(self, pre: Float[Tensor, "b d_sae"], rule: Rule) -> Entries:
        """What `rule` keeps of pre-activations."""
        if rule.per_row is not None:
            return _largest_per_row(pre, rule.per_row)
        if rule.in_batch is None or rule.in_batch >= pre.numel():
            return _kept(pre, (pre > 0) | pre.isnan())
        value, place = pre.flatten().topk(rule.in_batch, sorted=False)
        keep = torch.zeros(pre.numel(), dtype=torch.bool, device=pre.device)
        keep[place] = (value > 0) | value.isnan()
        return _kept(pre, keep.view(pre.shape))

    def reconstruct(
        self,
        x: Float[Tensor, "b d_in"],
        entries: Entries,
        codes: Float[Tensor, " nnz"],
        decoder: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_in"],
    ) -> tuple[Float[Tensor, "b d_in"], Float[Tensor, " nnz"], Float[Tensor, ""]]:
        """Residual, its products with the active decoder rows, and its squared length over the batch."""
        made = _bags(entries.latent, entries.offsets[:-1], codes, decoder)
        residual = x - bias - made
        return residual, self.dots(residual, entries, decoder), residual.square().sum()

    def dots(
        self, rows: Float[Tensor, "b d_in"], entries: Entries, decoder: Float[Tensor, "d_sae d_in"]
    ) -> Float[Tensor, " nnz"]:
        """⟨rows_b, W_e⟩ of each entry: what embedding_bag hands back to its weights."""
        if not len(entries.latent):
            return rows.new_zeros(0)
        with torch.enable_grad():
            weight = torch.zeros(len(entries.latent), device=rows.device, requires_grad=True)
            made = _bags(entries.latent, entries.offsets[:-1], weight, decoder.detach())
            (gradient,) = torch.autograd.grad(made, weight, rows)
        return gradient

    def group(self, entries: Entries, d_sae: int) -> Groups:
        """Entries sorted by latent, those of one latent by row."""
        latent = entries.latent.long()
        starts = torch.zeros(d_sae + 1, dtype=torch.int64, device=latent.device)
        torch.cumsum(torch.bincount(latent, minlength=d_sae), 0, out=starts[1:])
        order = latent.argsort(stable=True)
        row = torch.repeat_interleave(entries.offsets.diff().long(), output_size=len(latent))
        return Groups(starts, order, row[order])

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
        made = _bags(groups.row, groups.starts[:-1], weight[groups.order] * scale, rows)
        if add:
            out.add_(made)
        else:
            out.copy_(made)

    def adam(self, moving: Sequence[Moving], *, step: int, betas: tuple[float, float]) -> None:
        """Adam as torch has it, and what keeps rows at length 1 around it."""
        for one in moving:
            weight, gradient = one.weight, one.gradient
            if one.unit:
                gradient.sub_((gradient * weight).sum(1, keepdim=True) * weight)
            fused = weight.device.type in {"cpu", "cuda"}
            before = torch.full(
                (), float(step - 1), device=weight.device if fused else "cpu"
            )  # a fill: no copy to wait for
            adam(
                [weight],
                [gradient],
                [one.first],
                [one.second],
                [],
                [before],
                fused=fused,
                amsgrad=False,
                beta1=betas[0],
                beta2=betas[1],
                lr=one.rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )
            if one.unit:
                weight.div_(weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny))


def _bags(index: Tensor, offsets: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    if not len(index):  # embedding_bag wants one entry at least
        return table.new_zeros(len(offsets), table.shape[1])
    return embedding_bag(index, table, offsets.to(index.dtype), mode="sum", per_sample_weights=weight)


def _largest_per_row(pre: Tensor, k: int) -> Entries:
    value, latent = pre.topk(k, dim=1, sorted=False)
    value = torch.where(value < 0, 0.0, value)  # not relu: NaN has to be seen
    offsets = torch.arange(0, pre.shape[0] * k + 1, k, dtype=torch.int32, device=pre.device)
    return Entries(offsets, latent.flatten().to(torch.int32), value.flatten(), padded=True)


def _kept(pre: Tensor, keep: Tensor) -> Entries:
    row, latent = keep.nonzero(as_tuple=True)
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int32, device=pre.device)
    torch.cumsum(torch.bincount(row, minlength=len(pre)), 0, out=offsets[1:])
    return Entries(offsets, latent.to(torch.int32), pre[row, latent])
