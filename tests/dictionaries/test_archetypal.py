"""Archetypal: a decoder made of points, what it may be made of, and the way there of its gradient."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries.archetypal import Archetypal, ArchetypalSAE, nearest_in_simplex
from unweave.dictionaries.base import Step
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.stored import load
from unweave.store.rows import TensorRows
from unweave.testing import planted
from unweave.train import Training, train

ONE_CORE = Runtime(device="cpu", threads=1)
Norm = Literal["unit", "free"]


def _prepared(rows: Tensor, *, seed: int = 0, **options: float | str | None) -> ArchetypalSAE:
    sae = Archetypal(**{"d_sae": 10, "k": 3, "n_points": 24, **options}).build(rows.shape[1])
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(seed))
    return sae


def _simplex_by_sorting(row: Tensor) -> Tensor:
    """The nearest point of the simplex as Held, Wolfe & Crowder (1974) find it."""
    ordered = row.sort(descending=True).values
    over = (ordered.cumsum(0) - 1) / torch.arange(1, len(row) + 1)
    last = int((ordered > over).nonzero().max())
    return (row - over[last]).relu()


def test_the_decoder_by_hand() -> None:
    sae = Archetypal(d_sae=2, k=1, n_points=3, decoder_norm="free", delta=1.0).build(2)
    with torch.no_grad():
        sae.points.copy_(torch.tensor([[4.0, 0], [0, 4], [-4, 0]]))
        sae.mix.copy_(torch.tensor([[0.5, 0.5, 0], [0, 0.25, 0.75]]))
        sae.shift.copy_(torch.tensor([[1.0, 0], [0, 0]]))
        sae.b_dec.fill_(10.0)
    assert sae.W_dec.tolist() == [[3, 2], [-3, 1]]
    assert sae.decode(torch.tensor([1.0, 2])).tolist() == [7, 14]
    assert sae.directions().tolist() == [[3, 2], [-3, 1]]
    unit = Archetypal(d_sae=2, k=1, n_points=3).build(2)
    unit.load_state_dict(sae.state_dict())
    torch.testing.assert_close(unit.directions(), normalize(torch.tensor([[3.0, 2], [-3, 1]]), dim=1))


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([2.0, 0.0], [1.0, 0.0]),
        ([0.8, 0.6], [0.6, 0.4]),
        ([-1.0, -1.0, 5.0], [0.0, 0.0, 1.0]),
        ([-3.0, -3.0], [0.5, 0.5]),
        ([7.0], [1.0]),
    ],
)
def test_the_simplex_by_hand(row: list[float], nearest: list[float]) -> None:
    torch.testing.assert_close(nearest_in_simplex(torch.tensor([row]))[0], torch.tensor(nearest))


@given(st.integers(1, 60), st.integers(0, 999), st.sampled_from([1e-3, 1e-2, 1.0, 100.0]))
def test_the_simplex_is_that_of_sorting(width: int, seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = spread * torch.randn(5, width, generator=generator)
    weights[:, 0] += 1
    found = nearest_in_simplex(weights)
    expected = torch.stack([_simplex_by_sorting(row) for row in weights.double()]).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(nearest_in_simplex(found), found, atol=2e-6, rtol=0)


def test_the_simplex_of_what_is_not_finite_comes_to_an_end() -> None:
    assert nearest_in_simplex(torch.tensor([[math.nan, 1.0], [math.inf, 0.0]])).isnan().any()


def test_points_are_rows_seen_from_the_bias(rows: Tensor) -> None:
    sae = _prepared(rows, n_points=150)
    assert float(sae.points.square().sum(1).mean()) == pytest.approx(1)
    centred = rows - rows.mean(0)
    cosines = normalize(sae.points, dim=1) @ normalize(centred, dim=1).T
    torch.testing.assert_close(cosines.amax(1), torch.ones(150))
    assert len(set(cosines.argmax(1).tolist())) == 150
    whole = _prepared(rows, n_points=500)  # more than there are
    assert torch.equal(whole.points[:100], whole.points[400:])
    torch.testing.assert_close(normalize(whole.points[:200], dim=1), normalize(centred, dim=1), atol=1e-5, rtol=1e-4)


def test_points_do_not_depend_on_the_seed_of_the_training(rows: Tensor) -> None:
    first, second = _prepared(rows, seed=0), _prepared(rows, seed=1)
    assert torch.equal(first.points, second.points)
    assert not torch.equal(first.mix, second.mix)
    assert not torch.equal(first.points, _prepared(rows, points_seed=1).points)


def test_points_may_be_centres_of_clusters() -> None:
    """Rows in three heaps: the centres are theirs."""
    generator = torch.Generator().manual_seed(0)
    heaps = torch.tensor([[10.0, 0], [0, 10], [-10, -10]])
    rows = heaps.repeat(100, 1) + 0.1 * torch.randn(300, 2, generator=generator)
    sae = _prepared(rows, d_sae=3, k=1, n_points=3, points="kmeans", b_dec="zero")
    cosines = normalize(sae.points, dim=1) @ normalize(heaps, dim=1).T
    torch.testing.assert_close(cosines.amax(0), torch.ones(3), atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="clusters need"):
        _prepared(rows[:5], n_points=6, points="kmeans")


def test_the_start(rows: Tensor) -> None:
    sae = _prepared(rows, d_sae=40)
    torch.testing.assert_close(sae.mix.sum(1), torch.ones(40))
    assert (sae.mix >= 0).all()
    assert int((sae.mix > 0).sum(1).max()) <= 2
    assert not sae.shift.any()
    torch.testing.assert_close(sae.b_dec.detach(), rows.mean(0))
    torch.testing.assert_close(normalize(sae.W_enc.T, dim=1), sae.W_dec)
    frozen = sae.to_inference()
    left = [float((rows - rows.mean(0) - c * (frozen(rows) - rows.mean(0))).square().sum()) for c in (0.9, 1, 1.1)]
    assert min(left) == left[1]
    uniform = _prepared(rows, init="torch", b_dec="zero")
    assert 0.3 < float(uniform.W_enc.detach().abs().max()) <= 6**-0.5
    assert not uniform.b_dec.any()


@pytest.mark.parametrize("kernels", [TorchKernels, CompiledKernels])
@pytest.mark.parametrize("decoder_norm", ["unit", "free"])
@pytest.mark.parametrize("revives", [False, True])
def test_gradients_are_those_of_the_dense_loss(
    rows: Tensor, kernels: Callable[[], Kernels], decoder_norm: Norm, *, revives: bool
) -> None:
    sae = _prepared(rows, d_sae=20, decoder_norm=decoder_norm, aux=0.5, aux_k=2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    dead = torch.arange(20) % 3 == 0 if revives else None
    dense = sae.loss(rows, Step(1, 4, dead))
    expected = torch.autograd.grad(dense.total, list(sae.parameters()))
    # The formula, written out: TopK with the decoder that A, C and Λ give.
    raw = sae.mix @ sae.points + sae.shift
    decoder = raw / raw.norm(dim=1, keepdim=True) if decoder_norm == "unit" else raw
    pre = (rows - sae.b_dec) @ sae.W_enc + sae.b_enc
    value, index = pre.topk(3)
    left = rows - torch.zeros_like(pre).scatter(1, index, value.relu()) @ decoder - sae.b_dec
    torch.testing.assert_close(dense.parts["reconstruction"], left.square().sum(1).mean())
    assert ("aux" in dense.parts) == revives
    for parameter in sae.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    with kernels() as used:
        losses = sae.gradients(rows, Step(1, 4, dead), used)
    for parameter, wanted in zip(sae.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)
    assert not losses.total.requires_grad
    torch.testing.assert_close(losses.total, dense.total.detach())


def test_in_one_dimension_unit_rows_have_nothing_to_learn() -> None:
    rows = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    sae = _prepared(rows, d_sae=4, k=1)
    assert set(sae.W_dec.flatten().tolist()) <= {-1.0, 1.0}
    sae.loss(rows, Step(0)).total.backward()
    assert sae.mix.grad is not None
    assert not sae.mix.grad.any()


@settings(max_examples=10)
@given(st.sampled_from([0.0, 0.05, 0.5]), st.sampled_from(["unit", "free"]), st.integers(0, 99))
def test_after_each_step_it_is_made_of_what_is_allowed(delta: float, decoder_norm: Norm, seed: int) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    sae = _prepared(rows, delta=delta, decoder_norm=decoder_norm)
    with torch.no_grad():
        for parameter in (sae.mix, sae.shift):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.2)
    sae.after_step(Step(0))
    assert (sae.mix >= 0).all()
    torch.testing.assert_close(sae.mix.sum(1), torch.ones(10))
    assert sae.shift.norm(dim=1).max().item() <= delta * (1 + 1e-6)
    raw = sae.mix @ sae.points
    if decoder_norm == "free":
        assert (sae.W_dec - raw).norm(dim=1).max().item() <= delta * (1 + 1e-6) + 1e-6
        assert raw.abs().max().item() <= float(sae.points.abs().max())
    before = sae.shift.detach().clone()
    sae.after_step(Step(1))
    torch.testing.assert_close(sae.shift.detach(), before)


def test_a_planted_dictionary_is_found_and_delta_lets_it_fit_better(tmp_path: Path) -> None:
    truth = planted(4096, d_in=16, n_features=24, l0=3)
    training = Training(steps=200, batch_size=128, learning_rate=1.5e-2)
    found = {}
    for delta in (0.0, 0.5):
        config = Archetypal(d_sae=32, k=3, n_points=96, delta=delta)
        found[delta] = train(truth.rows, config, training, runtime=ONE_CORE, out=tmp_path / f"{delta}")
        assert isinstance(found[delta], ArchetypalSAE)
        assert float(found[delta].get_parameter("shift").norm(dim=1).max()) <= delta * (1 + 1e-6)
        torch.testing.assert_close(found[delta].get_parameter("mix").sum(1), torch.ones(32))
    assert float(truth.cosines(found[0.5].directions()).mean()) > 0.95
    assert float(truth.cosines(found[0.0].directions()).mean()) > 0.85
    assert found[0.5].history["explained_variance"][-1] > found[0.0].history["explained_variance"][-1]
    back = load(tmp_path / "0.5")
    assert torch.equal(back.state_dict()["W_dec"], found[0.5].state_dict()["W_dec"])
    assert torch.equal(back(truth.rows), found[0.5](truth.rows))


def test_in_inference_the_decoder_is_a_buffer_that_is_read_as_it_was_written(rows: Tensor, tmp_path: Path) -> None:
    sae = _prepared(rows)
    assert "W_dec" in sae.state_dict()
    assert "W_dec" not in dict(sae.named_parameters())
    frozen = sae.to_inference()
    torch.testing.assert_close(frozen.state_dict()["W_dec"], sae.W_dec)
    other = torch.nextafter(frozen.state_dict()["W_dec"], torch.tensor(math.inf))  # as another machine rounds it
    frozen.state_dict()["W_dec"].copy_(other)
    frozen.save(tmp_path / "sae")
    for found in (load(tmp_path / "sae"), frozen.to_inference()):
        assert torch.equal(found.state_dict()["W_dec"], other)
        assert torch.equal(found.directions(), other)


def test_a_decoder_made_earlier_is_forgotten_when_training_goes_on(rows: Tensor) -> None:
    frozen = _prepared(rows).to_inference()
    again = frozen.config.build(6)
    again.load_state_dict(frozen.state_dict())
    assert isinstance(again, ArchetypalSAE)
    with torch.no_grad():
        again.shift.add_(0.05)
    again.after_step(Step(0))
    expected = again.compose().detach()
    assert not torch.equal(expected, frozen.directions())
    torch.testing.assert_close(again.to_inference().directions(), expected)
    frozen.train()
    assert not frozen.state_dict()["W_dec"].any()
    torch.testing.assert_close(frozen.eval().directions(), _prepared(rows).directions())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_points": 0}, "n_points must"),
        ({"delta": -0.1}, "delta must"),
        ({"delta": math.inf}, "delta must"),
        ({"resample": 0.25}, "use aux"),
        ({"decoder_rate": 8.0}, "decoder_rate must be 1"),
        ({"k": 0}, "k must"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Archetypal(**options)
