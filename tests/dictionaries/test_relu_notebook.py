"""The notebook's dictionary: two biases each, and a decoder normalised along the wrong axis."""

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Step
from unweave.dictionaries.relu_notebook import NotebookReLU, NotebookReLUSAE
from unweave.store.rows import TensorRows


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 2


@pytest.fixture
def sae(rows: Tensor) -> NotebookReLUSAE:
    built = NotebookReLU(d_sae=8, init="torch", b_dec="zero", decoder_norm="free").build(6)
    built.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    return built


def test_columns_start_at_length_one_and_biases_as_linear_starts_them(sae: NotebookReLUSAE) -> None:
    torch.testing.assert_close(sae.W_dec.norm(dim=0), torch.ones(6))
    for bias, fan_in in ((sae.encoder_bias, 6), (sae.decoder_bias, 8)):
        assert 0 < float(bias.detach().abs().max()) <= fan_in**-0.5
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()


def test_gradients_keep_columns_and_nothing_keeps_rows(sae: NotebookReLUSAE, rows: Tensor) -> None:
    sae.W_dec.data *= torch.arange(1.0, 7)  # columns drift in training
    sae.loss(rows, Step(0)).total.backward()
    assert sae.W_dec.grad is not None
    size, weight = float(sae.W_dec.grad.norm()), sae.W_dec.detach().clone()
    sae.project_gradients()
    torch.testing.assert_close((sae.W_dec.grad * sae.W_dec).sum(0), torch.zeros(6), atol=1e-5 * size, rtol=0)
    assert float(sae.W_dec.grad.norm()) > 0.1 * size
    sae.after_step(Step(0))
    assert torch.equal(sae.W_dec, weight)
    assert not sae.unit_rows()  # nor does Adam


def test_it_trains_by_autograd(sae: NotebookReLUSAE) -> None:
    assert not sae.has_sparse_step()


def test_both_biases_count(sae: NotebookReLUSAE, rows: Tensor) -> None:
    pre = (rows - sae.b_dec) @ sae.W_enc + sae.b_enc + sae.encoder_bias
    torch.testing.assert_close(sae.encode(rows), pre.relu())
    torch.testing.assert_close(sae(rows), pre.relu() @ sae.W_dec + sae.b_dec + sae.decoder_bias)


def test_rescaling_scales_rows_and_codes(sae: NotebookReLUSAE, rows: Tensor) -> None:
    codes, reconstruction = sae.encode(rows), sae(rows)
    sae.rescale(3.0)
    torch.testing.assert_close(sae.encode(3 * rows), 3 * codes)
    torch.testing.assert_close(sae(3 * rows), 3 * reconstruction)
