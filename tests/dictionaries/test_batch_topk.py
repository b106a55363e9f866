"""BatchTopK: what a batch keeps, and the threshold that stands for it afterwards."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Step
from unweave.dictionaries.batch_topk import BatchTopK, BatchTopKSAE
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.stored import load
from unweave.train import Training, train


def _identity(k: int, **options: float) -> BatchTopKSAE:
    """Three latents whose pre-activations are the row itself."""
    sae = BatchTopK(d_sae=3, k=k, **options).build(3)
    sae.W_enc.data.copy_(torch.eye(3))
    sae.W_dec.data.copy_(torch.eye(3))
    return sae


def _take(sae: BatchTopKSAE, batch: Tensor, step: Step, kernels: Kernels | None = None) -> None:
    """What a training step does to the threshold."""
    if kernels is None:
        sae.loss(batch, step)
    else:
        with kernels:
            sae.gradients(batch, step, kernels)
    sae.after_step(step)


@pytest.fixture(params=[None, TorchKernels, CompiledKernels], ids=["dense", "torch", "numba"])
def kernels(request: pytest.FixtureRequest) -> Kernels | None:
    return None if request.param is None else request.param()


def test_a_row_takes_as_many_as_it_needs() -> None:
    sae = _identity(1)
    pre = torch.tensor([[5.0, 4, 3], [1, 2, -9]])  # two rows, so two entries: both in the first row
    assert sae.training_activation(pre, Step(0)).tolist() == [[5, 4, 0], [0, 0, 0]]
    pre = torch.tensor([[5.0, -4, -3], [-1, -2, -9]])  # only one is positive
    assert sae.training_activation(pre, Step(0)).tolist() == [[5, 0, 0], [0, 0, 0]]
    assert _identity(3).training_activation(pre, Step(0)).tolist() == [[5, 0, 0], [0, 0, 0]]
    annealed = _identity(1, k_start=2.0, k_anneal=0.5)
    pre = torch.tensor([[5.0, 4, 3], [1, 2, -9]])
    assert annealed.training_activation(pre, Step(0, 4)).tolist() == [[5, 4, 3], [0, 2, 0]]
    assert annealed.training_activation(pre, Step(2, 4)).tolist() == [[5, 4, 0], [0, 0, 0]]


def test_afterwards_a_row_keeps_what_exceeds_the_threshold() -> None:
    sae = _identity(1)
    rows = torch.tensor([[0.5, 4, -3], [1, 2, 3]])
    assert sae.encode(rows).tolist() == [[0.5, 4, 0], [1, 2, 3]]  # it starts at zero
    sae.threshold.fill_(2.0)
    assert sae.encode(rows).tolist() == [[0, 4, 0], [0, 0, 3]]
    assert sae.encode(rows[1]).tolist() == [0, 0, 3]


def test_the_threshold_is_the_running_mean_of_the_smallest_that_is_kept(kernels: Kernels | None) -> None:
    sae = _identity(1)
    expected = 0.0
    for index in [*range(14), *range(100, 106)]:
        smallest = 1.0 + index % 7
        batch = torch.tensor([[10.0 + index, -1, smallest], [smallest / 2, 0, 0]])
        _take(sae, batch, Step(index), kernels)
        share = 1 / (index + 1) if index < 100 else 0.01  # the mean of all so far, then a hundredth each
        expected += share * (smallest - expected)
        if index == 13:
            assert float(sae.threshold) == pytest.approx(4)  # the mean of twice 1 to 7
        assert float(sae.threshold) == pytest.approx(expected, rel=1e-5)


def test_the_smallest_kept_is_positive_and_zero_where_none_is(kernels: Kernels | None) -> None:
    sae = _identity(2)
    _take(sae, torch.tensor([[5.0, 0, 0], [-1, 3, -1]]), Step(0), kernels)
    assert float(sae.threshold) == 3
    _take(sae, torch.full((2, 3), -1.0), Step(1), kernels)
    assert float(sae.threshold) == 1.5


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1e6])
def test_a_threshold_that_guesses_wrong_changes_nothing_in_training(threshold: float) -> None:
    """It decides how the compiled loops search, never what they find."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for guess in (0.0, threshold):
        sae = BatchTopK(d_sae=60, k=4).build(9)
        for parameter in sae.parameters():
            parameter.data.normal_(generator=generator.manual_seed(1))
        sae.threshold.fill_(guess)
        kernels = CompiledKernels()
        with kernels:
            losses = sae.gradients(torch.randn(50, 9, generator=generator.manual_seed(2)), Step(1), kernels)
        assert int(losses.fired.sum()) == 200
        found.append([parameter.grad for parameter in sae.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_other_units_move_the_threshold_too(rows: Tensor) -> None:
    sae = BatchTopK(d_sae=12, k=2).build(6)
    for parameter in sae.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    sae.threshold.fill_(1.5)
    codes, back = sae.encode(rows), sae(rows)
    sae.rescale(4.0)
    assert float(sae.threshold) == 6
    torch.testing.assert_close(sae.encode(4 * rows), 4 * codes)
    torch.testing.assert_close(sae(4 * rows), 4 * back)


@pytest.fixture(scope="module")
def planted() -> tuple[Tensor, Tensor]:
    """Rows to learn from and others: sums of two of 24 directions, on average."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=1)
    active = (torch.rand(4000, 24, generator=generator) < 2 / 24) * (1 + torch.rand(4000, 24, generator=generator))
    rows = 7 * active @ directions + 3
    return rows[:3000], rows[3000:]


def test_after_training_a_row_has_k_active_latents_on_average(planted: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    seen, held_out = planted
    training, runtime = Training(epochs=12, batch_size=60), Runtime(engine="dense")
    trained = train(seen, BatchTopK(d_sae=32, k=3), training, out=tmp_path / "a", runtime=runtime)
    for rows in planted:
        counts = (trained.encode(rows) != 0).sum(1).double()
        assert float(counts.mean()) == pytest.approx(3, rel=0.1)
        assert len(counts.unique()) > 3  # as many as each needs
    assert trained.history["l0"] == pytest.approx([3.0] * len(trained.history["l0"]), rel=0.01)
    assert isinstance(trained, BatchTopKSAE)
    found = load(tmp_path / "a")
    assert isinstance(found, BatchTopKSAE)
    assert float(found.threshold) > 0
    assert torch.equal(found.threshold, trained.threshold)
    assert torch.equal(found.encode(held_out), trained.encode(held_out))
    for index in (0, 500):  # a row's code does not depend on its batch
        torch.testing.assert_close(found.encode(held_out[index]), found.encode(held_out)[index])
