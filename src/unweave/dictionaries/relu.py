"""ReLU sparse autoencoder with an L1 penalty."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Rule
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.sparse_step import Active, gradient


@register("relu")
@dataclass(frozen=True, kw_only=True)
class ReLU(PenalisedConfig):
    """ReLU sparse autoencoder with an L1 penalty: loss = ‖x − x̂‖² + l1·Σ_j f_j.

    Bricken et al. (2023), "Towards Monosemanticity". The penalty can be bypassed by growing the decoder, so its rows
    are kept at length 1 by default; `weigh_by_norm` closes that way for free ones, with l1·Σ_j f_j ‖W_dec,j‖ (Conerly
    et al., 2024, "Update on how we train SAEs"). `l1_reduction="sum"` adds the penalty up over the batch, which makes
    the effective weight l1 × batch size: some published notebooks do, and their numbers can only be met that way.
    """

    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("l1", (3.0, 1.0, 0.3))
    l1: float = 1.0
    "weight of the penalty; the default suits rows scaled to variance 1 a dimension, as training scales them"
    l1_reduction: Literal["mean", "sum"] = "mean"
    "the penalty over the batch: its mean, or its sum (weight then grows with the batch)"
    weigh_by_norm: bool = False
    "multiply each code in the penalty with the length of its decoder row; only with decoder_norm=free it matters"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l1 >= 0:
            raise InputError(f"l1 must be at least 0, got {self.l1}")

    def build(self, d_in: int) -> "ReLUSAE":
        """An untrained dictionary for rows of width d_in."""
        return ReLUSAE(self, d_in)


class ReLUSAE(SAE):
    """f = relu((x − b_dec) W_enc + b_enc), penalised by Σ_j f_j."""

    scaled_start: ClassVar[bool] = True
    config: ReLU

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The positive part."""
        return torch.relu(pre)

    def saelens(self) -> Exchange:
        """SAELens' standard autoencoder."""
        return Exchange.linear(self.four_tensors())

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the codes, which are not negative."""
        codes = forward.codes * self.W_dec.norm(dim=1) if self.config.weigh_by_norm else forward.codes
        return {"l1": codes.sum() * self._weight(len(codes), step)}

    def rule(self, rows: int, step: Step) -> Rule:
        """All that are positive."""
        return Rule()

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the codes."""
        weight = self._weight(active.rows, step)
        value = active.codes
        if not self.config.weigh_by_norm:
            active.d_codes.add_(weight)
            return {"l1": step.whole.over_latents(value.sum() * weight)}
        norm = self.W_dec.norm(dim=1)
        used = active.sums(value)
        active.d_codes.add_(norm[active.latent], alpha=weight)
        gradient(self.W_dec).addcmul_(
            (used / norm.clamp_min(torch.finfo(norm.dtype).tiny))[:, None], self.W_dec, value=weight
        )
        return {"l1": step.whole.over_latents(used @ norm * weight)}

    def _weight(self, rows: int, step: Step) -> float:
        return (
            self.config.l1
            * self.config.warm_up(step)
            / (rows if self.config.l1_reduction == "mean" else step.whole.part or 1)
        )
