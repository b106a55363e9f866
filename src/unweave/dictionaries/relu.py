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
from unweave.dictionaries.sae import SAE, Forward, SAEConfig


@register("relu")
@dataclass(frozen=True, kw_only=True)
class ReLU(SAEConfig):
    """ReLU sparse autoencoder with an L1 penalty: loss = ‖x − x̂‖² + l1·Σ_j f_j.

    Bricken et al. (2023), "Towards Monosemanticity". The penalty can be bypassed by growing the decoder, so its rows
    are kept at length 1 by default. `l1_reduction="sum"` adds the penalty up over the batch, which makes the effective
    weight l1 × batch size: some published notebooks do, and their numbers can only be met that way.
    """

    l1: float = 1.0
    "weight of the penalty; the default suits rows scaled to variance 1 a dimension, as training scales them"
    l1_reduction: Literal["mean", "sum"] = "mean"
    "the penalty over the batch: its mean, or its sum (weight then grows with the batch)"

    def __post_init__(self) -> None:
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

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the codes, which are not negative."""
        rows = len(forward.codes) if self.config.l1_reduction == "mean" else 1
        return {"l1": forward.codes.sum() * (self.config.l1 / rows)}
