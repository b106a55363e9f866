"""BatchTopK sparse autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Rule
from unweave.dictionaries.sae import SAE
from unweave.dictionaries.sparse_step import Active
from unweave.dictionaries.topk import LargestConfig

_FORGET = 0.01
_GUESS = 0.8


@register("batch-topk")
@dataclass(frozen=True, kw_only=True)
class BatchTopK(LargestConfig):
    """BatchTopK sparse autoencoder: in training, f keeps the k·b largest positive pre-activations of a batch of b rows.

    Bussmann, Leask & Nanda (2024), "BatchTopK sparse autoencoders", https://arxiv.org/abs/2412.06410. A row takes as
    many latents as it needs, k on average. What is kept would depend on the batch, so after training a row keeps what
    exceeds `threshold`, a buffer: the running mean over steps (a hundredth each) of the smallest value kept.
    """

    def build(self, d_in: int) -> "BatchTopKSAE":
        """An untrained dictionary for rows of width d_in."""
        return BatchTopKSAE(self, d_in)


class BatchTopKSAE(SAE):
    """f = the entries of (x − b_dec) W_enc + b_enc over the threshold."""

    config: LargestConfig
    threshold: Tensor

    def __init__(self, config: LargestConfig, d_in: int) -> None:
        super().__init__(config, d_in)
        self.register_buffer("threshold", torch.zeros(()))
        self._smallest: Tensor | None = None

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """Positive entries over the threshold."""
        return torch.where(pre > self.threshold, torch.relu(pre), 0.0)

    def training_activation(self, pre: Float[Tensor, "b d_sae"], step: Step) -> Float[Tensor, "b d_sae"]:
        """The largest positive entries of the batch."""
        most = self._in_batch(len(pre), step)
        value, place = pre.flatten().topk(min(most, pre.numel()), sorted=False)
        if not step.whole.alone:
            value = torch.where(step.whole.largest(value.detach(), most), value, 0.0)
        self._smallest = _smallest(value.detach(), step)
        return torch.zeros_like(pre).flatten().scatter(0, place, torch.relu(value)).view_as(pre)

    def saelens(self) -> Exchange:
        """SAELens' jumprelu, with the one threshold for each latent."""
        threshold = self.threshold.to(self.b_enc.dtype).expand(self.d_sae)
        return Exchange(architecture="jumprelu", tensors={**self.four_tensors(), "threshold": threshold})

    def rule(self, rows: int, step: Step) -> Rule:
        """The largest of the batch."""
        on_cpu = self.threshold.device.type == "cpu"  # elsewhere asking for the number would stop the queue
        return Rule(in_batch=self._in_batch(rows, step), guess=_GUESS * float(self.threshold) if on_cpu else 0.0)

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """None; the smallest code is noted."""
        self._smallest = _smallest(active.codes, step)
        return {}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the threshold towards the smallest code of this step."""
        assert self._smallest is not None
        share = max(_FORGET, 1 / (step.index + 1))
        self.threshold.lerp_(self._smallest.to(self.threshold), share)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        super().rescale(factor)
        self.threshold.mul_(factor)

    def _in_batch(self, rows: int, step: Step) -> int:
        return step.whole.rows_beside(rows) * self.config.k_at(step)


def _smallest(codes: Float[Tensor, " n"], step: Step) -> Float[Tensor, ""]:
    """The smallest positive code of the whole batch; 0 where there is none."""
    least = torch.where(codes > 0, codes, torch.inf).min() if len(codes) else codes.new_full((), torch.inf)
    least = step.whole.smallest(least)
    return torch.where(least.isinf(), 0.0, least)
