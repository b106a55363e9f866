from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.dictionaries.base import Step
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAEConfig
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_tied_start(rows: Tensor) -> None:
    sae = TopK(d_sae=50, k=3).build(6)
    sae.prepare(TensorRows(rows), _generator())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(50))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.b_enc, torch.zeros(50))
    torch.testing.assert_close(sae.b_dec.data, rows.mean(0))


@pytest.mark.parametrize("config", [ReLU(d_sae=300), ReLUKL(d_sae=300)])
def test_relu_latents_start_with_reconstructions_of_the_right_length(config: SAEConfig, rows: Tensor) -> None:
    sae = config.build(6)
    sae.prepare(TensorRows(rows), _generator())
    sae = sae.to_inference()
    gain = float((sae.W_enc.T * sae.W_dec).sum(1).mean())
    assert 0 < gain < 0.1
    torch.testing.assert_close(sae.W_enc.data, gain * sae.W_dec.data.T)
    centred = rows - sae.b_dec
    left = {scale: float((centred - scale * (sae(rows) - sae.b_dec)).square().sum()) for scale in (0, 0.9, 1, 1.1)}
    assert min(left, key=left.__getitem__) == 1


@pytest.mark.parametrize(("init", "square"), [("kaiming", 6), ("torch", 1)])
def test_the_uniform_starts(rows: Tensor, init: Literal["kaiming", "torch"], square: int) -> None:
    sae = ReLU(d_sae=400, init=init, decoder_norm="free", b_dec="zero").build(6)
    sae.prepare(TensorRows(rows), _generator())
    for weight, fan_in in ((sae.W_enc, 6), (sae.W_dec, 400)):
        bound = (square / fan_in) ** 0.5
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert abs(float(weight.detach().mean())) < 0.05 * bound
    assert not sae.b_dec.any()
    normed = ReLU(d_sae=400, init=init).build(6)
    normed.prepare(TensorRows(rows), _generator())
    torch.testing.assert_close(normed.W_dec.norm(dim=1), torch.ones(400))


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 1000))
def test_the_gradient_of_a_unit_row_is_orthogonal_to_it(d_in: int, d_sae: int, seed: int) -> None:
    data = torch.randn(9, d_in, generator=_generator(seed))
    sae = ReLU(d_sae=d_sae).build(d_in)
    sae.prepare(TensorRows(data), _generator(seed))
    sae.loss(data, Step(0)).total.backward()
    assert sae.W_dec.grad is not None
    before = sae.W_dec.grad.clone()
    sae.project_gradients()
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros(d_sae), atol=1e-5 * (1 + float(before.norm())), rtol=0)
    removed = before - sae.W_dec.grad
    expected = (before * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    torch.testing.assert_close(removed, expected.detach(), atol=1e-5 * (1 + float(before.norm())), rtol=1e-4)


def test_rows_of_the_decoder_are_brought_back_to_length_one(rows: Tensor) -> None:
    sae = TopK(d_sae=8, k=2).build(6)
    sae.prepare(TensorRows(rows), _generator())
    before = sae.W_dec.detach().clone()
    sae.W_dec.data *= torch.linspace(1e-20, 1e10, 8)[:, None]
    sae.W_dec.data[3] = 0
    sae.after_step()
    kept = [0, 1, 2, 4, 5, 6, 7]
    torch.testing.assert_close(sae.W_dec.detach()[kept], before[kept])
    assert not sae.W_dec[3].any()


def test_free_rows_are_left_alone(rows: Tensor) -> None:
    sae = ReLU(d_sae=8, decoder_norm="free").build(6)
    sae.prepare(TensorRows(rows), _generator())
    sae.W_dec.data *= 3
    sae.loss(rows, Step(0)).total.backward()
    assert sae.W_dec.grad is not None
    weight, gradient = sae.W_dec.detach().clone(), sae.W_dec.grad.clone()
    sae.project_gradients()
    sae.after_step()
    assert torch.equal(sae.W_dec, weight)
    assert torch.equal(sae.W_dec.grad, gradient)


def test_codes_and_reconstruction_by_hand() -> None:
    sae = TopK(d_sae=3, k=1).build(2).to_inference()
    sae.W_enc.copy_(torch.tensor([[1.0, 0, 1], [0, 2, 0]]))
    sae.b_enc.copy_(torch.tensor([0.0, 1, -5]))
    sae.W_dec.copy_(torch.tensor([[1.0, 1], [0, 3], [7, 7]]))
    sae.b_dec.copy_(torch.tensor([1.0, 1]))
    # x − b_dec = (2, 3): pre = (2, 7, −3).
    assert sae.encode(torch.tensor([[3.0, 4]])).tolist() == [[0, 7, 0]]
    assert sae(torch.tensor([[3.0, 4]])).tolist() == [[1, 22]]
    # x − b_dec = (−1, −1): pre = (−1, −1, −6): nothing is active, and the bias alone is left.
    assert sae(torch.tensor([[0.0, 0]])).tolist() == [[1, 1]]
