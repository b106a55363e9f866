"""The training step of sparse autoencoders, written out: its cost follows the active entries, not the width.

With x the batch, c its number of rows, f the codes, r = x − x̂ what they miss and g = ∂loss/∂f:

    ∂/∂f_e    = −2/c ⟨r, W_dec,e⟩ + penalties          ∂/∂W_dec,j = −2/c Σ_{e of j} f_e r
    ∂/∂b_enc  = Σ_{e of j} g_e                         ∂/∂W_enc,j = Σ_{e of j} g_e (x − b_dec)
    ∂/∂b_dec  = −2/c Σ r − W_enc ∂/∂b_enc

Everything is a sum over entries. What differs from kind to kind are hooks of `SAE`: the bias under which entries are
found, their codes and the slope of those, the reconstruction, and the penalties.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unweave.dictionaries.base import Losses, Step
from unweave.dictionaries.kernels import Entries, Groups, Kernels
from unweave.dictionaries.whole import find_entries

if TYPE_CHECKING:
    from unweave.dictionaries.sae import SAE


@dataclass(frozen=True, eq=False)
class Missed:
    """What codes miss of a batch.

    Attributes:
        loss: the reconstruction's part of the loss.
        square: Σ‖x − x̂‖² over the batch.
        residual: x − x̂.
        pull: what the loss pulls x̂ towards, row by row: ∂loss/∂x̂ = −2 share · pull; the residual, where the loss has no
            other reconstruction.
        d_codes: ∂loss/∂f of each entry.
    """

    loss: Float[Tensor, ""]
    square: Float[Tensor, ""]
    residual: Float[Tensor, "b d_in"]
    pull: Float[Tensor, "b d_in"]
    d_codes: Float[Tensor, " nnz"]


@dataclass(eq=False)
class Active:
    """The active entries of a batch and the gradients so far, for a kind to add to.

    Attributes:
        batch: the rows.
        entries: latent and value of each: its pre-activation under `SAE.entry_bias`.
        groups: the same sorted by latent.
        codes: what the dictionary makes of the values.
        d_codes: ∂loss/∂f of each entry.
        share: 1 / rows, or 1 / (rows · d_in) where the loss averages a row's entries.
        kernels: the operations.
        d_pre: ∂loss/∂pre-activation of each, apart from what comes through the codes; None is nothing.
    """

    batch: Float[Tensor, "b d_in"]
    entries: Entries
    groups: Groups
    codes: Float[Tensor, " nnz"]
    d_codes: Float[Tensor, " nnz"]
    share: float
    kernels: Kernels
    d_pre: Float[Tensor, " nnz"] | None = None

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.batch)

    @property
    def latent(self) -> Int64[Tensor, " nnz"]:
        """Latent of each entry."""
        return self.entries.latent.long()

    def sums(self, weight: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        """Σ weight_e over the entries of each latent."""
        return self.kernels.sums(self.groups, weight)


def gradients(sae: "SAE", batch: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> Losses:
    """Write the gradients of all parameters; see the module's text."""
    rows = len(batch)
    rule = sae.rule(rows, step)
    assert rule is not None, f"{type(sae).__name__} has no sparse step"
    centred = batch - sae.b_dec
    entries, revived = find_entries(
        kernels, centred, sae.W_enc, sae.entry_bias(), rule, sae.to_revive(step), step.whole
    )
    groups = kernels.group(entries, sae.d_sae)
    codes, slope = sae.entry_codes(entries)
    share = 1 / (rows * (sae.d_in if sae.config.reconstruction == "mean" else 1))
    missed = sae.entry_reconstruction(batch, entries, groups, codes, share, kernels)
    active = Active(batch, entries, groups, codes, missed.d_codes, share, kernels)
    parts = {"reconstruction": missed.loss, **sae.entry_penalties(active, step)}
    if slope is None and entries.padded:
        slope = (entries.value > 0).float()
    d_pre = active.d_codes if slope is None else active.d_codes * slope
    if active.d_pre is not None:
        d_pre = d_pre + active.d_pre
    kernels.accumulate(groups, d_pre, centred, out=gradient(sae.W_enc).T)
    bias = gradient(sae.b_enc).copy_(kernels.sums(groups, d_pre))
    if revived is not None:
        parts["aux"] = add_aux_gradients(sae, revived, missed.residual, centred, share, kernels)
    torch.addmv(missed.pull.sum(0), sae.W_enc, bias, beta=-2 * share, alpha=-1, out=gradient(sae.b_dec))
    return Losses(parts, kernels.fired(entries, groups, codes), missed.square / rows, rows)


def reconstruction(
    sae: "SAE",
    batch: Float[Tensor, "b d_in"],
    entries: Entries,
    groups: Groups,
    codes: Float[Tensor, " nnz"],
    share: float,
    kernels: Kernels,
) -> Missed:
    """The squared error and its gradients, that of W_dec written in its place."""
    residual, dots, square = kernels.reconstruct(batch, entries, codes, sae.W_dec, sae.b_dec)
    kernels.accumulate(groups, codes, residual, out=gradient(sae.W_dec), scale=-2 * share)
    return Missed(square * share, square, residual, residual, dots.mul_(-2 * share))


def add_aux_gradients(
    sae: "SAE",
    revived: Entries,
    residual: Float[Tensor, "b d_in"],
    centred: Float[Tensor, "b d_in"],
    share: float,
    kernels: Kernels,
) -> Float[Tensor, ""]:
    """Add the gradients of AuxK, by which dead latents learn to give what is left over; returns its loss."""
    weight = sae.config.aux * share
    groups = kernels.group(revived, sae.d_sae)
    left, dots, square = kernels.reconstruct(residual, revived, revived.value, sae.W_dec, torch.zeros_like(sae.b_dec))
    kernels.accumulate(groups, revived.value, left, out=gradient(sae.W_dec), scale=-2 * weight, add=True)
    d_codes = dots * (-2 * weight) * (revived.value > 0)
    kernels.accumulate(groups, d_codes, centred, out=gradient(sae.W_enc).T, add=True)
    gradient(sae.b_enc).add_(kernels.sums(groups, d_codes))
    return square * weight


def gradient(parameter: nn.Parameter) -> Tensor:
    """The place of a parameter's gradient."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
