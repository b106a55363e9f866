from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary, DictionaryConfig, Losses, Step
from unweave.dictionaries.neurons import NeuronDictionary, Neurons
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.sae import SAE, keep_largest
from unweave.dictionaries.topk import TopK
from unweave.testing.dictionaries.gradients import check_gradients, check_loss
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class Plain(SAE):
    """TopK without a sparse step, so that what it is broken in is `activation` alone."""

    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, self.config.k)


class WrongError(Plain):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        losses = super().loss(batch, step)
        return replace(losses, error=losses.error * self.d_in)


class CarriesGraph(Plain):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        return replace(super().loss(batch, step), error=(batch - self(batch)).square().sum() / len(batch))


class CountsWrongRows(Plain):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        return replace(super().loss(batch, step), rows=1)


class TrainsAnotherActivation(Plain):
    def training_activation(self, pre: Tensor, step: Step) -> Tensor:
        return keep_largest(pre, self.config.k + 1)


class NotFinite(Plain):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        losses = super().loss(batch, step)
        return replace(losses, parts={**losses.parts, "extra": self.b_enc.sum() / 0})


class ClosedFormWithLoss(NeuronDictionary):
    def loss(self, batch: Tensor, step: Step) -> Losses:
        return Losses.of({"error": batch.sum()}, self.encode(batch), batch)


class HalfGradient(Plain):
    """The value of the codes is right; half of their gradient is cut off."""

    def activation(self, pre: Tensor) -> Tensor:
        codes = super().activation(pre)
        return codes.detach() + (codes - codes.detach()) / 2


class HalfGradientAndSaysSo(HalfGradient):
    straight_through = ("W_enc", "b_enc", "b_dec")


class HalfGradientAndSaysTooLittle(HalfGradient):
    straight_through = ("W_enc", "b_dec")


class OneColumnWrong(Plain):
    """The gradient of one column of the decoder is 1 % too large."""

    def decode(self, codes: Tensor) -> Tensor:
        slope = torch.ones(self.d_in, dtype=codes.dtype)
        slope[5] = 1.01
        fixed = self.W_dec.detach()
        return codes @ (fixed + slope * (self.W_dec - fixed)) + self.b_dec


class NoSuchParameter(Plain):
    straight_through = ("threshold",)


class IdleParameter(Plain):
    def __init__(self, config: TopK, d_in: int) -> None:
        super().__init__(config, d_in)
        self.idle = torch.nn.Parameter(torch.ones(3))


class InfiniteGradient(Plain):
    """The square root at zero: the value is right, its slope infinite."""

    def activation(self, pre: Tensor) -> Tensor:
        return super().activation(pre) + 0 * (self.b_enc - self.b_enc.detach()).sqrt()


class MovesAThreshold(Plain):
    """Not broken: each loss moves a buffer that the next one reads."""

    def __init__(self, config: TopK, d_in: int) -> None:
        super().__init__(config, d_in)
        self.register_buffer("seen", torch.ones(()))

    def loss(self, batch: Tensor, step: Step) -> Losses:
        losses = super().loss(batch, step)
        scaled = {name: part * self.seen for name, part in losses.parts.items()}
        self.seen = self.seen * 2
        return replace(losses, parts=scaled)


@pytest.mark.parametrize(
    ("check", "broken", "says"),
    [
        (check_loss, WrongError, "error at the last step, beside the mean"),
        (check_loss, CarriesGraph, "error of a loss must be detached"),
        (check_loss, CountsWrongRows, "says it is of 1 rows; the batch has 64"),
        (check_loss, TrainsAnotherActivation, "fired at the last step, beside the active entries of encode"),
        (check_loss, NotFinite, "the part 'extra' of the loss is "),
        (check_loss, ClosedFormWithLoss, "trained_by_gradient is False, but it has a loss"),
        (check_gradients, HalfGradient, "if the gradient of W_enc is estimated, .* declare it in straight_through"),
        (check_gradients, HalfGradientAndSaysTooLittle, "along a direction of b_enc the loss rises by"),
        (check_gradients, OneColumnWrong, "along a direction of W_dec"),
        (check_gradients, NoSuchParameter, "straight_through names .'threshold'.*no parameters"),
        (check_gradients, IdleParameter, "idle gets no gradient"),
        (check_gradients, InfiniteGradient, "the gradient of b_enc holds NaN or Inf"),
    ],
)
def test_what_is_broken_is_found(
    check: Callable[[Subject], None], broken: type[Dictionary], says: str, hasty: Make
) -> None:
    with pytest.raises(AssertionError, match=says):
        check(hasty(broken))


def test_a_loss_that_grows_with_the_batch_is_found() -> None:
    check_loss(Subject(ReLU(d_sae=32)))
    with pytest.raises(AssertionError, match="holds each row three times, beside each row once"):
        check_loss(Subject(ReLU(d_sae=32, l1_reduction="sum")))


@pytest.mark.parametrize("config", [TopK(d_sae=32, k=3), ReLU(d_sae=32, decoder_norm="free", init="torch")])
def test_what_is_right_passes(config: DictionaryConfig) -> None:
    check_loss(Subject(config))
    check_gradients(Subject(config))


def test_straight_through_parameters_and_moving_buffers_are_no_fault(hasty: Make) -> None:
    check_gradients(hasty(HalfGradientAndSaysSo))
    check_gradients(hasty(MovesAThreshold))


def test_closed_forms_have_no_gradient() -> None:
    for check in (check_loss, check_gradients):
        with pytest.raises(NotClaimedError, match="closed form"):
            check(Subject(Neurons(k=3)))
