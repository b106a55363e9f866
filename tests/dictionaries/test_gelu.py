"""GELU: its codes in training and in use, its two penalties, and the scale of its bend."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Step
from unweave.dictionaries.gelu import GELU, GELUSAE, squared_covariances
from unweave.dictionaries.stored import load
from unweave.store.rows import TensorRows
from unweave.testing import planted
from unweave.train import Training, train

ONE_CORE = Runtime(device="cpu", threads=1)


def _bent(pre: Tensor, bend: float) -> Tensor:
    """z Φ(z / s): s GELU(z / s) from the error function."""
    return pre * 0.5 * (1 + torch.special.erf(pre / bend / math.sqrt(2)))


def _identity(d_sae: int = 4, bend: float = 2.0, **options: float | str) -> GELUSAE:
    """Latents whose pre-activations are the row itself."""
    sae = GELU(d_sae=d_sae, **options).build(d_sae)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(d_sae))
        sae.W_dec.copy_(torch.eye(d_sae))
        sae.bend.fill_(bend)
    return sae


def test_codes_by_hand() -> None:
    sae = _identity()
    row = torch.tensor([2.0, -2.0, 0.4, 10.0])
    # z Φ(z / 2): Φ(1) = 0.841345, Φ(−1) = 0.158655, Φ(0.2) = 0.579260, Φ(5) = 1 − 2.9e-7.
    trained = torch.tensor([1.682690, -0.317311, 0.231704, 9.999997])
    torch.testing.assert_close(sae.training_activation(row[None], Step(0))[0], trained)
    # In use, up to 0.17 · 2 = 0.34 is off: the negative one, and the small one.
    torch.testing.assert_close(sae.encode(row), torch.tensor([1.682690, 0, 0, 9.999997]))
    torch.testing.assert_close(_identity(threshold=0.0).encode(row), trained)
    torch.testing.assert_close(_identity(threshold=0.15).encode(row), torch.tensor([1.682690, -0.317311, 0, 9.999997]))


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(0.01, 10))
def test_by_default_codes_in_use_are_never_negative(row: list[float], bend: float) -> None:
    codes = _identity(3, bend).encode(torch.tensor(row))
    assert (codes >= 0).all()
    assert ((codes == 0) | (codes > 0.17 * bend)).all()


def test_the_default_threshold_is_the_depth_of_the_negative_lobe() -> None:
    depth = -float(_bent(torch.linspace(-3, 0, 30_001, dtype=torch.float64), 1.0).min())
    assert depth == pytest.approx(0.169971, abs=1e-6)
    assert depth < GELU().threshold < depth + 1e-4


def test_the_loss_by_its_formula(rows: Tensor) -> None:
    sae = GELU(d_sae=9, weight=0.7, warm_up_share=0.5, bend=0.4).build(6)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    sae.double()
    x = rows[:30].double()
    losses = sae.loss(x, Step(1, 8))  # a quarter of the way up
    trained = _bent((x - sae.b_dec) @ sae.W_enc + sae.b_enc, float(sae.bend))
    error = (x - trained @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    torch.testing.assert_close(losses.parts["reconstruction"], error)
    torch.testing.assert_close(losses.parts["l1"], 0.7 * 0.25 * trained.abs().sum() / 30)
    expected = torch.autograd.grad(error + 0.7 * 0.25 * trained.abs().sum() / 30, list(sae.parameters()))
    losses.total.backward()
    for parameter, gradient in zip(sae.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_is_logged_is_of_codes_in_use(rows: Tensor) -> None:
    sae = GELU(d_sae=9, bend=0.5).build(6)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    losses = sae.loss(rows, Step(0))
    used = sae.encode(rows).detach()
    assert 0 < int((used == 0).sum()) < used.numel()
    assert torch.equal(losses.fired, (used != 0).sum(0))
    torch.testing.assert_close(losses.error, (rows - sae.decode(used)).square().sum(1).mean().detach())
    assert float(losses.error) > losses.parts["reconstruction"].item()
    dense = GELU(d_sae=9, bend=0.5, threshold=0.0).build(6)
    dense.load_state_dict(sae.state_dict())
    losses = dense.loss(rows, Step(0))
    assert losses.fired.tolist() == [len(rows)] * 9
    torch.testing.assert_close(losses.error, losses.parts["reconstruction"].detach())


def test_covariances_by_hand() -> None:
    # Centred: (−1, −2), (0, 1), (1, 1). cov = (1·2 + 0 + 1·1) / 3 = 1, and it stands twice.
    codes = torch.tensor([[0.0, 1], [1, 4], [2, 4]])
    assert float(squared_covariances(codes)) == pytest.approx(2.0)
    sae = _identity(2, penalty="decorrelation", weight=3.0, bend=1e-3)  # as narrow as that, GELU is ReLU
    assert sae.loss(codes, Step(0)).parts["decorrelation"].item() == pytest.approx(6.0, rel=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100))
def test_covariances_are_those_of_torch(rows: int, d_sae: int, seed: int) -> None:
    codes = torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.atleast_2d(torch.cov(codes.T, correction=0))
    expected = (covariance - covariance.diagonal().diag()).square().sum()
    torch.testing.assert_close(squared_covariances(codes), expected, atol=1e-12, rtol=1e-9)


def test_the_bend_follows_the_rows(rows: Tensor) -> None:
    sae = GELU(d_sae=4, bend=0.5).build(6)
    sae.prepare(TensorRows(rows), torch.Generator())
    assert float(sae.bend) == pytest.approx(0.5 * float(rows.var(0, correction=0).mean()) ** 0.5, rel=1e-5)
    as_it_stands = GELU(d_sae=4, bend=0.5, bend_unit="one").build(6)
    as_it_stands.prepare(TensorRows(rows), torch.Generator())
    assert float(as_it_stands.bend) == 0.5
    for same, expected in ((torch.full((5, 6), 3.0), 1.5), (torch.zeros(5, 6), 0.5)):  # without a variance
        sae.prepare(TensorRows(same), torch.Generator())
        assert float(sae.bend) == pytest.approx(expected)


def test_rescaling_is_exact(rows: Tensor) -> None:
    sae = GELU(d_sae=8).build(6)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    codes, back = sae.encode(rows), sae(rows)
    sae.rescale(4.0)  # a power of two: to the last bit
    assert torch.equal(sae.encode(4 * rows), 4 * codes)
    assert torch.equal(sae(4 * rows), 4 * back)


def test_a_planted_dictionary_is_found_and_the_weight_makes_it_sparse(tmp_path: Path) -> None:
    truth = planted(4096, d_in=16, n_features=24, l0=3)
    training = Training(steps=250, batch_size=128, learning_rate=1e-2)
    found = {
        weight: train(truth.rows, GELU(d_sae=32, weight=weight), training, runtime=ONE_CORE, out=tmp_path / f"{weight}")
        for weight in (0.1, 1.0)
    }
    assert float(truth.cosines(found[1.0].directions()).mean()) > 0.95
    l0 = {weight: float((sae.encode(truth.rows) != 0).sum(1).float().mean()) for weight, sae in found.items()}
    assert 3 < l0[1.0] < 0.6 * l0[0.1]
    history = found[1.0].history
    assert history["l0"][-1] == pytest.approx(l0[1.0], rel=0.1)
    missed = (truth.rows - found[1.0](truth.rows)).square().sum() / (truth.rows - truth.rows.mean(0)).square().sum()
    assert history["explained_variance"][-1] == pytest.approx(1 - float(missed), abs=0.02)
    back = load(tmp_path / "1.0")
    assert torch.equal(back.encode(truth.rows), found[1.0].encode(truth.rows))
    assert torch.equal(back.get_buffer("bend"), found[1.0].get_buffer("bend"))


def test_the_decorrelation_penalty_decorrelates_and_does_not_make_sparse() -> None:
    truth = planted(2048, d_in=16, n_features=24, l0=3)
    training = Training(steps=150, batch_size=128, learning_rate=5e-3)
    left, l0 = [], []
    for weight in (0.0, 1.0):
        sae = train(truth.rows, GELU(d_sae=24, penalty="decorrelation", weight=weight), training, runtime=ONE_CORE)
        codes = sae.encode(truth.rows)
        left.append(float(squared_covariances(codes) / codes.var(0, correction=0).square().sum()))
        l0.append(float((codes != 0).sum(1).float().mean()))
    assert left[1] < 0.5 * left[0]
    assert l0[1] > 6


def test_the_mixtures_of_a_notebook() -> None:
    """Two sources, mixed, in 20 latents: weight · mean |f| over rows and latents is l1 with weight / 20.

    Here of 1,000 rows instead of 3,000.
    """
    t = torch.linspace(0, 14 * math.pi, 1000, dtype=torch.float64)
    sources = torch.stack([t.sin() + 1, (3 * t).sin().sign() + 1], 1)
    rows = (sources @ torch.tensor([[1, 0.4], [0.6, 1]], dtype=torch.float64)).float()
    config = GELU(
        d_sae=20,
        weight=1 / 20,
        bend=1.0,
        bend_unit="one",
        threshold=0.0,
        reconstruction="mean",
        decoder_norm="free",
        init="torch",
        b_dec="zero",
    )
    training = Training(
        epochs=600, batch_size=1000, learning_rate=7e-4, betas=(0.9, 0.999), schedule="constant", scale_inputs=False
    )
    sae = train(rows, config, training, runtime=ONE_CORE)
    codes = sae.encode(rows).double()
    assert (codes < 0).any()
    assert sae.history["l0"][-1] == 20
    assert sae.history["l1"][-1] == pytest.approx(float(codes.abs().mean()), rel=0.02)
    best = torch.corrcoef(torch.cat([sources, codes], 1).T)[:2, 2:].abs().nan_to_num().amax(1)
    assert (best > 0.9).all()  # the notebook's SAE, ten seeds: 0.98 ± 0.02 and 0.99 ± 0.01; an untrained one: the same
    assert sae.history["explained_variance"][-1] > 0.9


def test_a_row_that_is_not_finite_has_a_code_that_says_so() -> None:
    assert _identity().encode(torch.tensor([math.nan, 1, 1, 1])).isnan().any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": -1.0}, "weight must be"),
        ({"weight": math.inf}, "weight must be"),
        ({"bend": 0.0}, "use relu"),
        ({"bend": math.nan}, "bend must be"),
        ({"threshold": -0.1}, "threshold must be"),
        ({"warm_up_share": 2.0}, "warm_up_share"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GELU(**options)
