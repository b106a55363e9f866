from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.relu import ReLU, ReLUSAE
from unweave.dictionaries.sae import Forward
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.testing.dictionaries.sparse_step import check_sparse_step
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class ForgetsAPenalty(TopKSAE):
    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        return {"pull": 1e-2 * self.W_dec.sum()}


class ForgetsItsGradient(ForgetsAPenalty):
    def entry_penalties(self, active: object, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        return {"pull": 1e-2 * self.W_dec.sum()}


class Complete(ForgetsItsGradient):
    """Not broken."""

    def entry_penalties(self, active: object, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        active.d_decoder.add_(1e-2)
        return super().entry_penalties(active, step)


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


class WeighsOnlyUnitRows(ReLUSAE):
    """Its sparse penalty leaves out the decoder's lengths, which shows only where an option makes them matter."""

    def entry_penalties(self, active: object, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        weight = self._weight(active.rows, step)
        active.d_codes.add_(weight)
        return {"l1": active.entries.value.sum() * weight}


class WeighsOnlyUnitRowsConfig(ReLU):
    def build(self, d_in: int) -> WeighsOnlyUnitRows:
        return WeighsOnlyUnitRows(self, d_in)


def test_options_beside_the_example_s_are_tried() -> None:
    with pytest.raises(AssertionError, match=r"sparse gradient of W_dec, .* weigh_by_norm=True"):
        check_sparse_step(Subject(WeighsOnlyUnitRowsConfig(d_sae=32)))


def test_what_is_right_passes(hasty: Make) -> None:
    check_sparse_step(hasty(Complete))
    check_sparse_step(Subject(ReLU(d_sae=32)))


def test_a_kind_without_one_is_not_asked(hasty: Make) -> None:
    class Dense(TopKSAE):
        def rule(self, rows: int, step: Step) -> None:
            return None

    with pytest.raises(NotClaimedError, match="no sparse step"):
        check_sparse_step(hasty(Dense))
