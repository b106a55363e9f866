"""The L1 sparse autoencoder of a published notebook on faces, with what is odd about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.relu import ReLU, ReLUSAE
from unweave.dictionaries.sae import Forward
from unweave.store.rows import RowSource

_LEAST = torch.finfo(torch.float32).tiny


@register("relu-faces")
@dataclass(frozen=True, kw_only=True)
class FacesReLU(ReLU):
    """ReLU sparse autoencoder as a published notebook on faces has it: loss = ‖X − X̂‖ + l1·Σ f + weight_decay/2·Σ θ².

    It is here to meet that notebook's numbers. With `l1_reduction="sum"` the error is the norm of the whole batch, not
    squared, and the penalty the sum over it: the first grows with the root of the batch, the second with the batch.
    (With "mean" both are divided by what they grow with.) Encoder and decoder start at random from N(0, std²): for rows
    of length 1 and std 1, first reconstructions are hundreds of times too long, and at the published step size training
    ends long before they are not. Decay (Adam's own: a gradient weight_decay·θ) acts on biases too. Published: d_sae
    512, l1 0.1, l1_reduction sum, b_dec zero, decoder_norm free. Use `relu` for anything else.
    """

    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("l1", (1.0, 0.3, 0.03))
    std: float = 1.0
    "standard deviation of the starting weights, of which init plays no part"
    weight_decay: float = 1e-4
    "pulls every weight and bias to zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.std < float("inf") and 0 <= self.weight_decay < float("inf")):
            raise InputError(f"std must be above 0, weight_decay not below: got {self.std}, {self.weight_decay}")

    def build(self, d_in: int) -> "FacesReLUSAE":
        """An untrained dictionary for rows of width d_in."""
        return FacesReLUSAE(self, d_in)


class FacesReLUSAE(ReLUSAE):
    """f = relu((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec."""

    finds_planted: ClassVar[bool] = False
    config: FacesReLU

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the starting weights: N(0, std²), rows of W_dec at length 1 where they are kept there."""
        super().prepare(rows, generator)
        for weight in (self.W_enc, self.W_dec):
            weight.copy_(torch.randn(weight.shape, generator=generator) * self.config.std)
        if "W_dec" in self.unit_rows():
            self.W_dec.copy_(torch.nn.functional.normalize(self.W_dec, dim=1))

    def reconstruction_loss(self, batch: Float[Tensor, "b d_in"], forward: Forward, step: Step) -> Float[Tensor, ""]:
        """The norm of all that the batch misses, as one vector; or that over the root of its rows."""
        missed: Tensor = torch.linalg.vector_norm(forward.residual)
        rows = len(batch)
        if not step.whole.alone:
            rows = step.whole.rows_beside(rows)
            missed = (step.whole.mean(missed.square() / len(batch)) * rows).clamp_min(_LEAST).sqrt()
        return missed if self.config.l1_reduction == "sum" else missed / rows**0.5

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the codes, and the decay."""
        squares = torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()
        return {**super().penalties(forward, step), "weight_decay": 0.5 * self.config.weight_decay * squares}

    def has_sparse_step(self) -> bool:
        """No: it is here for its numbers, not for its speed."""
        return False
