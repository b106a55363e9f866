from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.relu import ReLU, ReLUSAE
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.testing.dictionaries.sparse_step import check_sparse_step
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class ForgetsAPenalty(TopKSAE):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        losses = super().loss(batch, step)
        return replace(losses, parts={**losses.parts, "pull": 1e-2 * self.W_dec.sum()})


class ForgetsItsGradient(ForgetsAPenalty):
    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        losses = super().gradients(batch, step, kernels)
        return replace(losses, parts={**losses.parts, "pull": 1e-2 * self.W_dec.detach().sum()})


class Complete(ForgetsItsGradient):
    """Not broken."""

    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        losses = super().gradients(batch, step, kernels)
        self.W_dec.grad.add_(1e-2)
        return losses


class AddsToWhatIsThere(TopKSAE):
    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        stale = self.b_dec.grad.clone()
        losses = super().gradients(batch, step, kernels)
        self.b_dec.grad.add_(stale)
        return losses


class RuleOfAnotherKind(TopKSAE):
    """The sparse step keeps one latent more than the dense one."""

    def rule(self, rows: int, step: Step) -> object:
        rule = super().rule(rows, step)
        return replace(rule, per_row=min(self.d_sae, rule.per_row + 1))


class CarriesGraph(TopKSAE):
    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        losses = super().gradients(batch, step, kernels)
        return replace(losses, parts={name: part + 0 * self.b_enc.sum() for name, part in losses.parts.items()})


class CountsWrong(TopKSAE):
    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        losses = super().gradients(batch, step, kernels)
        return replace(losses, fired=losses.fired + 1)


class MovesItsThreshold(TopKSAE):
    """A buffer that the dense loss moves, and the sparse step does not."""

    def __init__(self, config: TopK, d_in: int) -> None:
        super().__init__(config, d_in)
        self.register_buffer("threshold", torch.zeros(()))

    def loss(self, batch: Tensor, step: Step) -> Losses:
        self.threshold.add_(1)
        return super().loss(batch, step)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (ForgetsAPenalty, "parts of the sparse loss are"),
        (ForgetsItsGradient, "sparse gradient of W_dec, beside the dense"),
        (AddsToWhatIsThere, "sparse gradient of b_dec, beside the dense"),
        (RuleOfAnotherKind, "sparse part 'reconstruction' of the loss, beside the dense"),
        (CarriesGraph, "the sparse part 'reconstruction' carries a graph"),
        (CountsWrong, "fired of the sparse step differs from the dense in 32 latents"),
        (MovesItsThreshold, "threshold after the sparse step, beside the dense"),
    ],
)
def test_what_is_broken_is_found(broken: type[Dictionary], says: str, hasty: Make) -> None:
    with pytest.raises(AssertionError, match=says):
        check_sparse_step(hasty(broken))


class WrongWhereAnOptionIsOn(ReLUSAE):
    """Its sparse gradient is 1 % too large, but only where an option is on that is off by default."""

    def gradients(self, batch: Tensor, step: Step, kernels: Kernels) -> Losses:
        losses = super().gradients(batch, step, kernels)
        if self.config.weigh_by_norm:
            self.W_dec.grad.mul_(1.01)
        return losses


class WrongWhereAnOptionIsOnConfig(ReLU):
    def build(self, d_in: int) -> WrongWhereAnOptionIsOn:
        return WrongWhereAnOptionIsOn(self, d_in)


def test_options_beside_the_example_s_are_tried() -> None:
    with pytest.raises(AssertionError, match=r"sparse gradient of W_dec, .* weigh_by_norm=True"):
        check_sparse_step(Subject(WrongWhereAnOptionIsOnConfig(d_sae=32)))


def test_what_is_right_passes(hasty: Make) -> None:
    check_sparse_step(hasty(Complete))
    check_sparse_step(Subject(ReLU(d_sae=32)))


def test_a_kind_without_one_is_not_asked(hasty: Make) -> None:
    class Dense(TopKSAE):
        def rule(self, rows: int, step: Step) -> None:
            return None

    with pytest.raises(NotClaimedError, match="no sparse step"):
        check_sparse_step(hasty(Dense))
