from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.neurons import NeuronDictionary, Neurons
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.sae import SAE, keep_largest
from unweave.store.rows import RowSource
from unweave.testing.dictionaries.claims import Claims
from unweave.testing.dictionaries.learning import check_planted, check_seeds, check_sparsity
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class Plain(SAE):
    """TopK without a sparse step, so that what it is broken in is `activation` alone."""

    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, self.config.k)


class DrawsFromNumpy(Plain):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, generator)
        self.b_enc.data.add_(torch.from_numpy(np.random.rand(self.d_sae)).float())  # noqa: NPY002


class DrawsFromTorch(Plain):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, generator)
        self.b_enc.data.add_(torch.rand(self.d_sae))


class CountsItsStarts(Plain):
    started = 0

    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, generator)
        type(self).started += 1
        self.b_enc.data.add_(1e-6 * self.started)


class NeverLearns(Plain):
    def project_gradients(self) -> None:
        for parameter in self.parameters():
            parameter.grad.zero_()


class NeverLearnsAndSaysSo(NeverLearns):
    finds_planted = False


class DeafToItsSeed(NeverLearns):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, torch.Generator())


class NeuronsThatClaimToFind(NeuronDictionary):
    finds_planted = True


class IgnoresK(Plain):
    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, 3)


@pytest.mark.parametrize(
    ("check", "broken", "says"),
    [
        (check_seeds, DrawsFromNumpy, "NumPy's global generator"),
        (check_seeds, DrawsFromTorch, "torch's global generator"),
        (check_seeds, CountsItsStarts, "trained twice with the same seed: W_enc: not the same bits"),
        (check_seeds, DeafToItsSeed, "another seed gives the same weights"),
        (check_planted, NeverLearns, r"is 0\.\d+, below 0.9 \(random directions: 0\.[45]\d+\), at an L0 of 3\.00"),
        (check_planted, NeuronsThatClaimToFind, "of 24 true directions .* 32 latents is 0.4"),
        (check_sparsity, IgnoresK, "it is k=1: 3.00, k=3: 3.00, k=6: 3.00"),
    ],
)
def test_what_is_broken_is_found(
    check: Callable[[Subject], None], broken: type[Dictionary], says: str, hasty: Make
) -> None:
    with pytest.raises(AssertionError, match=says):
        check(hasty(broken))


def test_what_is_not_claimed_is_not_asked(hasty: Make) -> None:
    with pytest.raises(NotClaimedError, match="finds_planted is False"):
        check_planted(hasty(NeverLearnsAndSaysSo))
    with pytest.raises(NotClaimedError, match="finds_planted is False"):
        check_planted(Subject(Neurons(k=3)))
    check_seeds(Subject(Neurons(k=3)))  # another seed need not give other neurons


def test_an_option_that_lowers_l0_is_given_from_high_to_low() -> None:
    config = ReLU(d_sae=32)
    claims = replace(Claims.of(config, 16), sparsity=("l1", (3.0, 0.3)))
    check_sparsity(Subject(config, claims=claims))
    with pytest.raises(AssertionError, match=r"L0 must rise .* it is l1=0.3: 1\d.\d+, l1=3.0: [2-5]"):
        check_sparsity(Subject(config, claims=replace(claims, sparsity=("l1", (0.3, 3.0)))))
    with pytest.raises(AssertionError, match=r"l1=-1.0, which sparsity names, is refused: l1 must be"):
        check_sparsity(Subject(config, claims=replace(claims, sparsity=("l1", (-1.0, 3.0)))))
    with pytest.raises(NotClaimedError, match="no option is declared"):
        check_sparsity(Subject(config, claims=replace(claims, sparsity=None)))
