"""Gated: gate and magnitude, the loss and its gradients worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.dictionaries.base import Losses, Step
from unweave.dictionaries.gated import Gated, GatedSAE
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels


def _by_hand() -> GatedSAE:
    """Two latents that see the two entries of a row; the first doubles its gate, the second takes one off."""
    sae = Gated(d_sae=2, l1=0.5, decoder_norm="free").build(2)
    sae.W_enc.data.copy_(torch.eye(2))
    sae.W_dec.data.copy_(torch.tensor([[1.0, 0], [1, 2]]))
    sae.b_dec.data.copy_(torch.tensor([1.0, 0]))
    sae.r_mag.data.copy_(torch.tensor([math.log(2.0), 0]))
    sae.b_mag.data.copy_(torch.tensor([0.0, -1]))
    return sae


# x = (2, 3): π = x − b_dec = (1, 3), f = (2·1, 3 − 1) = (2, 2), x̂ = 2 (1, 0) + 2 (1, 2) + (1, 0) = (5, 4), and
# r = (−3, −1).
# The gate alone: 1 (1, 0) + 3 (1, 2) + (1, 0) = (5, 6), which misses (−3, −3).
ROW = torch.tensor([[2.0, 3.0]])
PARTS = {"reconstruction": 10.0, "l1": 0.5 * 4, "gate": 18.0}
# ∂/∂f = −2 W_dec r = (6, 6 + 4), ∂/∂π through the gate's own terms = −2 W_dec (−3, −3) + ½ = (6.5, 18.5), and through f
# exp(r_mag) times ∂/∂f = (12, 10). Of the gate's own terms W_dec and, through x̂, b_dec get nothing.
D_PRE = torch.tensor([6.5 + 12, 18.5 + 10])
GRADIENTS = {
    "W_dec": torch.tensor([[12.0, 4], [12, 4]]),  # −2 f r
    "b_dec": torch.tensor([6.0, 2]) - D_PRE,
    "b_enc": D_PRE,
    "W_enc": torch.outer(torch.tensor([1.0, 3]), D_PRE),
    "b_mag": torch.tensor([6.0, 10]),
    "r_mag": torch.tensor([6.0 * 1 * 2, 10.0 * 3 * 1]),  # ∂/∂f π exp(r_mag)
}


def _losses(sae: GatedSAE, batch: Tensor, engine: str) -> Losses:
    if engine == "dense":
        losses = sae.loss(batch, Step(0))
        losses.total.backward()
        return losses
    kernels = TorchKernels() if engine == "torch" else CompiledKernels()
    with kernels:
        return sae.gradients(batch, Step(0), kernels)


def test_codes_by_hand() -> None:
    sae = _by_hand()
    rows = torch.tensor([[2.0, 3], [0, 3], [2, 0.5], [2, -3], [1, 1.5]])
    # A shut gate is silent whatever its magnitude; an open one may have none.
    expected = torch.tensor([[2.0, 2], [0, 2], [2, 0], [2, 0], [0, 0.5]])
    torch.testing.assert_close(sae.encode(rows), expected)
    sae.b_mag.data[0] = 9.0
    expected = torch.tensor([[0.0, 2], [10, 2]])
    torch.testing.assert_close(sae.encode(torch.tensor([[0.0, 3], [1.5, 3]])), expected)


@pytest.mark.parametrize("engine", ["dense", "torch", "numba"])
def test_loss_and_gradients_by_hand(engine: str) -> None:
    sae = _by_hand()
    losses = _losses(sae, ROW, engine)
    assert {name: float(part.detach()) for name, part in losses.parts.items()} == pytest.approx(PARTS)
    assert float(losses.error) == pytest.approx(10)
    assert losses.fired.tolist() == [1, 1]
    for name, expected in GRADIENTS.items():
        torch.testing.assert_close(sae.get_parameter(name).grad, expected, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("engine", ["dense", "torch", "numba"])
def test_an_open_gate_without_a_magnitude_still_pays(engine: str) -> None:
    """π₁ = ½ is open and its magnitude ½ − 1 is none: the gate's own terms reach it, what comes through f does not."""
    sae = _by_hand()
    batch = torch.tensor([[1.0, 0.5]])
    losses = _losses(sae, batch, engine)
    assert losses.fired.tolist() == [0, 0]
    assert float(losses.parts["l1"].detach()) == pytest.approx(0.25)
    assert sae.b_enc.grad is not None
    # The gate alone gives ½ (1, 2) + (1, 0), which misses (−½, −½): −2 (1, 2)·(−½, −½) + ½.
    assert sae.b_enc.grad.tolist() == pytest.approx([0, 3.5])
    for name in ("W_dec", "r_mag", "b_mag"):
        assert not sae.get_parameter(name).grad.any()


def test_dead_latents_are_revived_through_their_gates() -> None:
    sae = Gated(d_sae=6, aux=1.0, aux_k=2).build(3)
    for parameter in sae.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    sae.b_mag.data.fill_(-100.0)  # none has a magnitude, so all are dead
    batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    aux = sae.loss(batch, Step(3, 10, torch.ones(6, dtype=torch.bool))).parts["aux"]
    aux.backward()
    assert sae.W_enc.grad is not None
    assert sae.W_enc.grad.any()
    assert sae.b_mag.grad is None or not sae.b_mag.grad.any()


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(-2, 2))
def test_the_paper_s_bias_of_the_gate_alone_is_the_same_function(seed: int, b_gate: float) -> None:
    """f = [x W + b_gate > 0]·relu(exp(r) x W + b): here b_enc = b_gate and b_mag = b − exp(r) b_gate."""
    generator = torch.Generator().manual_seed(seed)
    sae = Gated(d_sae=7).build(4)
    for parameter in sae.parameters():
        parameter.data.normal_(generator=generator)
    sae.b_enc.data.fill_(b_gate)
    rows, b = torch.randn(9, 4, generator=generator), torch.randn(7, generator=generator)
    sae.b_mag.data.copy_(b - sae.r_mag.data.exp() * b_gate)
    plain = (rows - sae.b_dec) @ sae.W_enc
    expected = (plain + b_gate > 0) * torch.relu(sae.r_mag.exp() * plain + b)
    torch.testing.assert_close(sae.encode(rows), expected, atol=1e-5, rtol=1e-4)


def test_other_units_scale_rows_and_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    sae = Gated(d_sae=12).build(6)
    for parameter in sae.parameters():
        parameter.data.normal_(generator=generator)
    rows = torch.randn(50, 6, generator=generator)
    codes, back = sae.encode(rows), sae(rows)
    sae.rescale(4.0)
    torch.testing.assert_close(sae.encode(4 * rows), 4 * codes)
    torch.testing.assert_close(sae(4 * rows), 4 * back)
