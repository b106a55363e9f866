import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, Step
from unweave.dictionaries.sae import SAE, keep_largest
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.testing.dictionaries.inference import check_batch_independence, check_inference, check_rescale
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class Plain(SAE):
    """TopK without a sparse step, so that what it is broken in is `activation` alone."""

    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, self.config.k)


class CentresTheBatch(Plain):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x - 0.1 * x.mean(0) if x.ndim > 1 else x)


class SelectsOverBatch(Plain):
    """BatchTopK without a threshold for inference: what is active in a row depends on the rows beside it."""

    def activation(self, pre: Tensor) -> Tensor:
        flat = pre.relu().flatten()
        value, index = flat.topk(self.config.k * (len(flat) // self.d_sae))
        return torch.zeros_like(flat).scatter(0, index, value).view(pre.shape)


class RightThreshold(SelectsOverBatch):
    """BatchTopK that takes the mean least active value of its batches as the threshold at inference: not broken."""

    factor = 1.0

    def __init__(self, config: TopK, d_in: int) -> None:
        super().__init__(config, d_in)
        self.register_buffer("threshold", torch.zeros(()))

    def activation(self, pre: Tensor) -> Tensor:
        return pre * (pre > self.threshold)

    def training_activation(self, pre: Tensor, step: Step) -> Tensor:
        codes = SelectsOverBatch.activation(self, pre)
        if (codes > 0).any():
            self.threshold.lerp_(self.factor * codes[codes > 0].min().detach(), 0.1)
        return codes

    def rescale(self, factor: float) -> None:
        super().rescale(factor)
        self.threshold.mul_(factor)


class LowThreshold(RightThreshold):
    factor = 0.5


class HighThreshold(RightThreshold):
    factor = 1.5


class WrongLatents(RightThreshold):
    """As sparse at inference as in training, but the latents' values go to their neighbours."""

    def activation(self, pre: Tensor) -> Tensor:
        return super().activation(pre).roll(1, -1)


class StaysTrainable(Plain):
    def to_inference(self) -> Dictionary:
        return copy.deepcopy(self).eval()


class GivesItself(Plain):
    def to_inference(self) -> Dictionary:
        return self.eval().requires_grad_(False)


class ForgetsItsHistory(Plain):
    def to_inference(self) -> Dictionary:
        frozen = super().to_inference()
        frozen.history = {}
        return frozen


class ChangesEachTime(Plain):
    def to_inference(self) -> Dictionary:
        frozen = super().to_inference()
        frozen.b_enc.data.sub_(1e-6)
        return frozen


class SparserInUse(Plain):
    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, 3 if self.training else 2)


class ScalesOneBiasOnly(Plain):
    def rescale(self, factor: float) -> None:
        with torch.no_grad():
            self.b_enc.mul_(factor)


class ThresholdStays(RightThreshold):
    def rescale(self, factor: float) -> None:
        SAE.rescale(self, factor)


class RefusesWithoutAdvice(Plain):
    def rescale(self, factor: float) -> None:
        raise InputError("no")


class Refuses(Plain):
    def rescale(self, factor: float) -> None:
        Dictionary.rescale(self, factor)


@pytest.mark.parametrize(
    ("check", "broken", "says"),
    [
        (check_batch_independence, CentresTheBatch, "beside their codes among all rows"),
        (check_batch_independence, SelectsOverBatch, "other latents are active"),
        (check_inference, LowThreshold, "latents are active in a row at inference, 3.00 in training"),
        (check_inference, HighThreshold, "latents are active in a row at inference, 3.00 in training"),
        (check_inference, WrongLatents, "the variance left unexplained"),
        (check_inference, StaysTrainable, "leaves W_enc, b_enc, W_dec, b_dec to be trained"),
        (check_inference, GivesItself, "codes of the frozen copy after the original was changed"),
        (check_inference, ForgetsItsHistory, "loses hook_name or history"),
        (check_inference, ChangesEachTime, "b_enc: not the same bits"),
        (check_inference, SparserInUse, "beside the trained dictionary's"),
        (check_rescale, ScalesOneBiasOnly, r"after rescale\(4\), rows 4 times as long: codes"),
        (check_rescale, ThresholdStays, "rows 4 times as long: codes"),
        (check_rescale, RefusesWithoutAdvice, "must say to train with scale_inputs off: no"),
    ],
)
def test_what_is_broken_is_found(
    check: Callable[[Subject], None], broken: type[Dictionary], says: str, hasty: Make
) -> None:
    with pytest.raises(AssertionError, match=says):
        check(hasty(broken))


@pytest.mark.parametrize("check", [check_batch_independence, check_inference, check_rescale])
@pytest.mark.parametrize("right", [TopKSAE, RightThreshold])
def test_what_is_right_passes(right: type[Dictionary], check: Callable[[Subject], None], hasty: Make) -> None:
    check(hasty(right))


def test_a_clear_refusal_to_be_rescaled_is_an_answer(hasty: Make) -> None:
    subject = hasty(Refuses)
    with pytest.raises(NotClaimedError, match="cannot be rescaled"):
        check_rescale(subject)
    assert not subject.scales_inputs
    check_batch_independence(subject)  # it is trained on rows as they are
