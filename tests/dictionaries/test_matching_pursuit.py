"""Matching pursuit: its choices, its amounts, and the way its gradient takes back."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries import matching_pursuit
from unweave.dictionaries.base import Step
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.matching_pursuit import MatchingPursuit, MatchingPursuitSAE, choose
from unweave.dictionaries.stored import load
from unweave.store.rows import TensorRows
from unweave.testing import planted
from unweave.train import Training, train

ONE_CORE = Runtime(device="cpu", threads=1)


def _of(directions: list[list[float]], k: int, b_dec: float = 0.0) -> MatchingPursuitSAE:
    sae = MatchingPursuit(d_sae=len(directions), k=k).build(len(directions[0]))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(directions))
        sae.b_dec.fill_(b_dec)
    return sae


def _drawn(d_in: int, d_sae: int, k: int, seed: int = 0, **options: str) -> tuple[MatchingPursuitSAE, Tensor]:
    """A dictionary in random directions and 40 rows, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, d_in, generator=generator) + 1
    sae = MatchingPursuit(d_sae=d_sae, k=k, **options).build(d_in)
    sae.prepare(TensorRows(rows), generator)
    return sae.double(), rows.double()


def _plainly(row: Tensor, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Codes and what is left, as the formula has it, one row and one step at a time."""
    codes, least = row.new_zeros(len(directions)), 1e-6 * row.norm()
    for _ in range(k):
        correlation = directions @ row
        best = int(correlation.argmax())
        if correlation[best] <= least:
            break
        codes = codes + correlation[best] * torch.eye(len(directions), dtype=row.dtype)[best]
        row = row - correlation[best] * directions[best]
    return codes, row


def test_codes_by_hand() -> None:
    directions = [[1.0, 0], [0.6, 0.8], [0, 1]]
    # x − b_dec = (2, 1.5): correlations 2, 2.4, 1.5. Less 2.4 (0.6, 0.8): (0.56, −0.42), correlations 0.56, 0, −0.42.
    # Less 0.56 (1, 0): (0, −0.42), and nothing is positive.
    row = torch.tensor([3.0, 2.5])
    for k, expected in {1: [0, 2.4, 0], 2: [0.56, 2.4, 0], 3: [0.56, 2.4, 0]}.items():
        torch.testing.assert_close(_of(directions, k, 1.0).encode(row), torch.tensor(expected))
    torch.testing.assert_close(_of(directions, 2, 1.0)(row), torch.tensor([3.0, 2.92]))


def test_a_latent_may_be_taken_twice() -> None:
    # (1, 0.5): 1 (1, 0), then 0.3 (−0.8, 0.6) of (0, 0.5), then 0.24 (1, 0) of (0.24, 0.32).
    codes = _of([[1.0, 0], [-0.8, 0.6], [0, -1]], 3).encode(torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(codes, torch.tensor([1.24, 0.3, 0]))


def test_nothing_positive_is_nothing_active() -> None:
    sae = _of([[1.0, 0], [0, 1]], 2, 5.0)
    rows = torch.tensor([[4.0, 4], [5, 5], [5, 1]])
    assert not sae.encode(rows).any()
    assert torch.equal(sae(rows), torch.full((3, 2), 5.0))
    losses = sae.loss(rows, Step(0))
    assert losses.fired.tolist() == [0, 0]
    assert float(losses.error) == pytest.approx(6)


def test_what_rounding_leaves_is_not_active() -> None:
    """A row that one latent explains takes one, however many steps there are."""
    sae, _ = _drawn(7, 12, 12)
    sae.float()
    codes = sae.encode(sae.b_dec + torch.logspace(-3, 3, 12)[:, None] * sae.W_dec)
    torch.testing.assert_close(codes.diagonal(), torch.logspace(-3, 3, 12), rtol=1e-4, atol=1e-6)
    assert (codes != 0).sum(1).float().mean() < 2


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 14), st.integers(1, 14), st.integers(0, 99))
def test_codes_follow_the_formula(d_in: int, d_sae: int, k: int, seed: int) -> None:
    sae, rows = _drawn(d_in, d_sae, min(k, d_sae), seed)
    codes = sae.encode(rows)
    for row, code in zip(rows[:10], codes, strict=False):
        expected, left = _plainly(row - sae.b_dec, sae.W_dec, min(k, d_sae))
        torch.testing.assert_close(code, expected, atol=1e-9, rtol=1e-6)
        torch.testing.assert_close(row - sae(row), left, atol=1e-9, rtol=1e-6)
    assert (codes >= 0).all()
    assert int((codes != 0).sum(1).max()) <= k


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(0, 99))
def test_each_step_leaves_less(d_in: int, seed: int) -> None:
    left = []
    for k in (1, 2, 4, 8, 16):
        sae, rows = _drawn(d_in, 16, k, seed)
        left.append((rows - sae(rows)).norm(dim=1))
    for before, after in itertools.pairwise(left):
        assert (after <= before + 1e-9).all()


def test_in_an_orthonormal_set_it_takes_the_largest(rows: Tensor) -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    sae = _of(basis.tolist(), 3)
    value, index = (rows @ basis.T).topk(3)
    torch.testing.assert_close(sae.encode(rows), torch.zeros(200, 6).scatter(1, index, value.relu()), atol=1e-4, rtol=0)


def test_choices_are_the_same_with_and_without_the_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, rows = _drawn(8, 30, 6)
    with_gram = choose(rows, sae.W_dec, 6)
    monkeypatch.setattr(matching_pursuit, "_CHUNK", 7)
    in_pieces = choose(rows, sae.W_dec, 6)
    monkeypatch.setattr(matching_pursuit, "_GRAM_BYTES", 0)
    without = choose(rows, sae.W_dec, 6)
    for other in (in_pieces, without):
        assert all(torch.equal(a, b) for a, b in zip(with_gram, other, strict=True))


@pytest.mark.parametrize("kernels", [TorchKernels, CompiledKernels])
@pytest.mark.parametrize("reconstruction", ["sum", "mean"])
@pytest.mark.parametrize(("d_in", "d_sae", "k"), [(5, 9, 4), (1, 3, 2), (12, 4, 4), (20, 60, 15)])
def test_gradients_are_those_of_the_formula(
    kernels: Callable[[], Kernels], reconstruction: str, d_in: int, d_sae: int, k: int
) -> None:
    """By autograd through the formula one row at a time, through autograd's loss, and by the way back written out."""
    sae, rows = _drawn(d_in, d_sae, k, reconstruction=reconstruction)
    left = torch.stack([_plainly(row - sae.b_dec, sae.W_dec, k)[1] for row in rows])
    loss = left.square().sum(1).mean() / (d_in if reconstruction == "mean" else 1)
    expected = torch.autograd.grad(loss, [sae.W_dec, sae.b_dec])
    dense = sae.loss(rows, Step(0))
    torch.testing.assert_close(dense.total, loss)
    for found, wanted in zip(torch.autograd.grad(dense.total, [sae.W_dec, sae.b_dec]), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)
    sae.float()
    sae.W_dec.grad = torch.full_like(sae.W_dec, 7.0)  # of another step
    with kernels() as used:
        losses = sae.gradients(rows.float(), Step(0), used)
    for found, wanted in zip((sae.W_dec.grad, sae.b_dec.grad), expected, strict=True):
        torch.testing.assert_close(found, wanted.float(), atol=1e-5 * float(wanted.abs().max() + 1e-3), rtol=1e-4)
    torch.testing.assert_close(losses.total, loss.float(), atol=1e-5, rtol=1e-5)
    assert not losses.total.requires_grad
    assert torch.equal(losses.fired, dense.fired)
    torch.testing.assert_close(losses.error, dense.error.float(), atol=1e-5, rtol=1e-5)


def test_codes_carry_a_gradient_to_the_row() -> None:
    sae, rows = _drawn(6, 10, 3)
    row = rows[0].requires_grad_()
    found = torch.autograd.functional.jacobian(sae.encode, row)
    moved = torch.stack([sae.encode(row + 1e-6 * unit) - sae.encode(row - 1e-6 * unit) for unit in torch.eye(6)], 1)
    torch.testing.assert_close(found, moved / 2e-6, atol=1e-6, rtol=1e-4)


def test_a_planted_dictionary_is_found(tmp_path: Path) -> None:
    truth = planted(4096, d_in=16, n_features=24, l0=3)
    training = Training(steps=120, batch_size=128, learning_rate=3e-3)
    sae = train(truth.rows, MatchingPursuit(d_sae=32, k=3), training, runtime=ONE_CORE, out=tmp_path / "sae")
    assert float(truth.cosines(sae.directions()).mean()) > 0.95
    torch.testing.assert_close(sae.directions().norm(dim=1), torch.ones(32))
    back = load(tmp_path / "sae")
    assert torch.equal(back.encode(truth.rows), sae.encode(truth.rows))
    more = train(truth.rows, MatchingPursuit(d_sae=32, k=6), training, runtime=ONE_CORE)
    assert more.history["l0"][-1] > sae.history["l0"][-1]
    dense = train(
        truth.rows, MatchingPursuit(d_sae=32, k=3), training, runtime=Runtime(device="cpu", threads=1, engine="dense")
    )
    assert dense.history["explained_variance"][-1] == pytest.approx(sae.history["explained_variance"][-1], abs=0.01)


def test_the_start(rows: Tensor) -> None:
    biases = {}
    for b_dec in ("mean", "median", "zero"):
        sae = MatchingPursuit(d_sae=8, k=2, b_dec=b_dec).build(6)
        sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
        torch.testing.assert_close(sae.W_dec, normalize(sae.W_dec, dim=1))
        biases[b_dec] = sae.b_dec.detach()
    torch.testing.assert_close(biases["mean"], rows.mean(0))
    assert not torch.equal(biases["median"], biases["mean"])
    assert not biases["zero"].any()


def test_a_row_that_is_not_finite_has_a_code_that_says_so() -> None:
    codes = _of([[1.0, 0], [0, 1]], 1).encode(torch.tensor([[math.nan, 1], [1, 2]]))
    assert codes[0].isnan().any()
    assert codes[1].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"k": 0}, "k must"), ({"d_sae": 4, "k": 5}, "between 1 and d_sae"), ({"decoder_rate": 0.0}, "decoder_rate must")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        MatchingPursuit(**options)
