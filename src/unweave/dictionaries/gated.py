"""Gated sparse autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Entries, Rule
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.sparse_step import Active, gradient


@register("gated")
@dataclass(frozen=True, kw_only=True)
class Gated(PenalisedConfig):
    """Gated sparse autoencoder: a gate says whether a latent is active, a magnitude how much.

    Rajamanoharan et al. (2024), "Improving dictionary learning with gated sparse autoencoders",
    https://arxiv.org/abs/2404.16014. With the gate π = (x − b_dec) W_enc + b_enc,
    f = [π > 0]·relu(exp(r_mag)·π + b_mag) and loss = ‖x − x̂‖² + l1·Σ_j relu(π_j) + ‖x − x̂(relu(π))‖², the last through
    a decoder that it does not train. The L1 penalty shrinks the gate only. The paper adds the gate's bias to the gate
    alone; here the magnitude has it too, which b_mag takes up: the functions are the same.
    """

    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("l1", (4.0, 2.0, 1.0))
    l1: float = 0.5
    "weight of the penalty on the gate; the default suits rows scaled to variance 1 a dimension, as training scales \
them"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l1 >= 0:
            raise InputError(f"l1 must be at least 0, got {self.l1}")

    @classmethod
    def example(cls) -> "Gated":
        """Small, and as sparse as the conformance suite's rows."""
        return cls(d_sae=32, l1=2.0)

    def build(self, d_in: int) -> "GatedSAE":
        """An untrained dictionary for rows of width d_in."""
        return GatedSAE(self, d_in)


class GatedSAE(SAE):
    """f = [π > 0]·relu(exp(r_mag)·π + b_mag) for π = (x − b_dec) W_enc + b_enc."""

    scaled_start: ClassVar[bool] = True
    straight_through: ClassVar[frozenset[str]] = frozenset({"W_dec", "b_dec"})  # the gate's part holds them fixed
    config: Gated

    def __init__(self, config: Gated, d_in: int) -> None:
        super().__init__(config, d_in)
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The magnitude, where the gate is open."""
        return torch.where(pre > 0, torch.relu(self.r_mag.exp() * pre + self.b_mag), 0.0)

    @torch.no_grad()
    def saelens(self) -> Exchange:
        """SAELens' gated, as the paper's: the gate's bias is not part of the magnitude, whose own one takes it up."""
        tensors = self.four_tensors()
        b_mag = self.b_mag.double() + self.r_mag.double().exp() * self.b_enc.double()
        tensors.update(b_gate=tensors.pop("b_enc"), r_mag=self.r_mag.detach(), b_mag=b_mag.to(self.b_mag.dtype))
        return Exchange(architecture="gated", tensors=tensors)

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the open gates, and what they reconstruct by themselves."""
        gate = torch.relu(forward.pre)
        batch = (forward.residual + self.decode(forward.codes)).detach()
        missed = batch - gate @ self.W_dec.detach() - self.b_dec.detach()
        weight = self.config.l1 * self.config.warm_up(step)
        return {"l1": gate.sum(-1).mean() * weight, "gate": self.per_row(missed.square().sum(-1)).mean()}

    def rule(self, rows: int, step: Step) -> Rule:
        """All open gates."""
        return Rule()

    def entry_codes(self, entries: Entries) -> tuple[Float[Tensor, " nnz"], Float[Tensor, " nnz"] | None]:
        """Magnitudes of the open gates."""
        latent = entries.latent.long()
        gain = self.r_mag.exp()[latent]
        codes = torch.relu(gain * entries.value + self.b_mag[latent]) * (entries.value > 0)
        return codes, gain * (codes > 0)

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the open gates, and what they reconstruct by themselves; gradients of the magnitude."""
        gate, weight = active.entries.value, self.config.l1 * self.config.warm_up(step)
        _, dots, square = active.kernels.reconstruct(active.batch, active.entries, gate, self.W_dec, self.b_dec)
        open_ = (gate > 0).float()
        active.d_pre = (dots * (-2 * active.share) + weight / active.rows) * open_
        d_magnitude = active.d_codes * (active.codes > 0)
        gradient(self.b_mag).copy_(active.sums(d_magnitude))
        gradient(self.r_mag).copy_(active.sums(d_magnitude * gate) * self.r_mag.exp())
        return {
            "l1": step.whole.over_latents(gate.sum() * (weight / active.rows)),
            "gate": square * active.share,
        }

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        super().rescale(factor)
        self.b_mag.mul_(factor)
