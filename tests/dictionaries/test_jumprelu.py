"""JumpReLU: the jump, its straight-through estimate worked out by hand, and where thresholds start."""

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Losses, Step
from unweave.dictionaries.jumprelu import JumpReLU, JumpReLUSAE
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.store.rows import TensorRows

ENGINES = ["dense", "torch", "numba"]


def _losses(sae: JumpReLUSAE, batch: Tensor, engine: str) -> Losses:
    """One batch's losses, with their gradients in place."""
    if engine == "dense":
        losses = sae.loss(batch, Step(0))
        losses.total.backward()
        return losses
    kernels = TorchKernels() if engine == "torch" else CompiledKernels()
    with kernels:
        return sae.gradients(batch, Step(0), kernels)


def _identity(threshold: list[float], **options: float | None) -> JumpReLUSAE:
    """Latents whose pre-activations are the row itself, and that give it back."""
    d = len(threshold)
    sae = JumpReLU(d_sae=d, **{"target": None, **options}).build(d)
    sae.W_enc.data.copy_(torch.eye(d))
    sae.W_dec.data.copy_(torch.eye(d))
    sae.threshold.data.copy_(torch.tensor(threshold))
    return sae


def test_a_latent_is_its_pre_activation_over_its_threshold() -> None:
    sae = _identity([1.0, 0.0, 2.0])
    rows = torch.tensor([[1.5, 0.1, 1.9], [0.9, -1, 2.5], [1, 0, 2]])
    assert sae.encode(rows).tolist() == torch.tensor([[1.5, 0.1, 0], [0, 0, 2.5], [0, 0, 0]]).tolist()
    assert sae.encode(rows[0]).tolist() == torch.tensor([1.5, 0.1, 0]).tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_straight_through_estimate_by_hand(engine: str) -> None:
    """Two rows, three latents with θ = (1, 2, 1) and ε = 1, so that z counts within ½ of its θ.

    z = x = (1.25, 1.75, 4) and (0.75, 3, 0.25). Active: z₀ and z₂ of the first row, z₁ of the second. So f is
    (1.25, 0, 4) and (0, 3, 0), r = x − f = (0, 1.75, 0) and (0.75, 0, 0.25), and ∂loss/∂f = −2/2 r = −r. In the window:
    z₀ and z₁ of the first row, z₀ of the second. ∂loss/∂θ = Σ −θ/ε ∂loss/∂f − (1/ε) 3/2 for L0 = 3/2 with weight 3.
    """
    sae = _identity([1.0, 2.0, 1.0], l0=3.0, bandwidth=1.0)
    batch = torch.tensor([[1.25, 1.75, 4], [0.75, 3, 0.25]])
    losses = _losses(sae, batch, engine)
    assert float(losses.parts["reconstruction"].detach()) == pytest.approx((1.75**2 + 0.75**2 + 0.25**2) / 2)
    assert float(losses.parts["l0_penalty"].detach()) == pytest.approx(3 * 3 / 2)
    assert losses.fired.tolist() == [1, 1, 1]
    expected = [
        1.0 * 0 + 1.0 * 0.75 - 2 * 1.5,  # −θ/ε · −r for both rows, and one and a half for each of the two
        2.0 * 1.75 - 1.5,
        0.0,  # 4 lies beyond its window, and 0.25 below it
    ]
    assert sae.threshold.grad is not None
    assert sae.threshold.grad.tolist() == pytest.approx(expected)
    assert sae.b_enc.grad is not None
    assert sae.b_enc.grad.tolist() == pytest.approx([0, 0, 0])  # of active latents alone: nothing is missed there


@pytest.mark.parametrize("engine", ENGINES)
def test_the_penalty_pulls_l0_to_its_target_by_hand(engine: str) -> None:
    """L0 = 3/2 and target 3: (½ − 1)² · 8 = 2, with the slope 2 · 8 · (½ − 1)/3 = −8/3 in L0."""
    sae = _identity([1.0, 2.0, 1.0], l0=8.0, target=3.0, bandwidth=1.0)
    batch = torch.tensor([[1.25, 3, 0.25], [0.25, 3, 0.25]])
    losses = _losses(sae, batch, engine)
    assert float(losses.parts["l0_penalty"].detach()) == pytest.approx(2)
    # One pre-activation lies in a window, that of an active latent that misses nothing: −(1/ε)(−8/3)/2.
    assert sae.threshold.grad is not None
    assert sae.threshold.grad.tolist() == pytest.approx([4 / 3, 0, 0])  # descent lowers θ₀: more latents are wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_only_what_lies_inside_the_window_moves_a_threshold(engine: str) -> None:
    for z, weight in ((0.49, 0), (0.51, 1), (1.0, 1), (1.49, 1), (1.51, 0)):
        sae = _identity([1.0], l0=1.0, bandwidth=1.0)
        sae.W_dec.data.zero_()
        _losses(sae, torch.tensor([[z]]), engine)
        # r = z, but W_dec = 0: only the penalty is left, −1/ε.
        assert sae.threshold.grad is not None
        assert sae.threshold.grad.tolist() == pytest.approx([-weight])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_estimate_is_the_slope_of_the_expected_loss(engine: str) -> None:
    """With z spread evenly around θ the mean loss is smooth in θ, and the estimate is its slope but for ε/4θ."""
    theta, width = 2.0, 0.05
    z = torch.linspace(theta - 0.5, theta + 0.5, 4001)[:, None]
    sae = _identity([theta], l0=0.7, bandwidth=width)
    _losses(sae, z, engine)

    def mean_loss(at: float) -> float:
        moved = _identity([at], l0=0.7, bandwidth=width)
        return float(moved.double().loss(z.double(), Step(0)).total.detach())

    slope = (mean_loss(theta + 0.05) - mean_loss(theta - 0.05)) / 0.1
    assert slope == pytest.approx(theta**2 - 0.7, rel=0.01)  # θ² more is missed, and one latent less to pay for
    assert sae.threshold.grad is not None
    assert float(sae.threshold.grad) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize(("target", "expected"), [(2.0, 2.0), (None, 32.0), (0.01, 0.01)])
def test_thresholds_start_where_the_first_rows_have_the_target_s_l0(target: float | None, expected: float) -> None:
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + 2
    sae = JumpReLU(d_sae=100, target=target).build(8)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    assert len(sae.threshold.unique()) == 1
    assert float((sae.encode(rows) != 0).sum(1).double().mean()) == pytest.approx(expected, abs=0.01)


def test_thresholds_start_at_zero_where_too_few_are_positive() -> None:
    sae = JumpReLU(d_sae=100, target=90.0).build(8)
    sae.prepare(TensorRows(torch.randn(500, 8, generator=torch.Generator().manual_seed(0))), torch.Generator())
    assert not sae.threshold.any()


def test_thresholds_do_not_fall_below_zero() -> None:
    sae = _identity([1.0, -0.5, 0.0])
    sae.after_step(Step(0))
    assert sae.threshold.tolist() == [1, 0, 0]


def test_thresholds_of_dead_latents_sink() -> None:
    """Below them, nothing else moves them."""
    sae = _identity([1.0, 3.0, 0.0])
    sae.after_step(Step(5, 10, torch.tensor([False, True, True])))
    assert sae.threshold.tolist() == pytest.approx([1, 2.97, 0])
    for _ in range(500):
        sae.after_step(Step(5, 10, torch.tensor([False, True, True])))
    assert sae.threshold.tolist() == pytest.approx([1, 0.02, 0], abs=0.01)


def test_other_units_move_the_thresholds_too() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 2
    sae = JumpReLU(d_sae=40, target=5.0).build(8)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    sae.b_enc.data.normal_(generator=torch.Generator().manual_seed(1))
    codes, back = sae.encode(rows), sae(rows)
    assert codes.any()
    sae.rescale(4.0)
    torch.testing.assert_close(sae.encode(4 * rows), 4 * codes)
    torch.testing.assert_close(sae(4 * rows), 4 * back)
