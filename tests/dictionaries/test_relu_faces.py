"""The published dictionary of faces: its loss by hand, and what its start and its step size amount to."""

import pytest
import torch

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Step
from unweave.dictionaries.relu_faces import FacesReLU
from unweave.store.rows import TensorRows

PUBLISHED = FacesReLU(d_sae=512, l1=0.1, l1_reduction="sum", b_dec="zero", decoder_norm="free")


def unit_rows(n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0)).abs(), dim=1)


def test_the_published_loss_by_hand():
    sae = FacesReLU(d_sae=2, l1=0.1, l1_reduction="sum", b_dec="zero", decoder_norm="free", weight_decay=0.5).build(2)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        sae.W_dec.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, 0.5]))
    batch = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    # codes [[1, 0], [3, .5]], reconstructions [[2, 0], [6, .5]], missed [[-1, 2], [-3, -.5]]
    with torch.no_grad():
        parts = sae.loss(batch, Step(0)).parts
    assert float(parts["reconstruction"]) == pytest.approx((1 + 4 + 9 + 0.25) ** 0.5)
    assert float(parts["l1"]) == pytest.approx(0.1 * 4.5)
    assert float(parts["weight_decay"]) == pytest.approx(0.5 * 0.5 * (2 + 5 + 0.25))


def test_it_starts_hundreds_of_row_lengths_away_with_half_its_latents_active():
    rows = unit_rows(256, 512)
    sae = PUBLISHED.build(512)
    sae.prepare(TensorRows(rows), torch_generator(0, "dictionary"))
    with torch.no_grad():
        missed = float((rows - sae(rows)).norm(dim=1).mean())
    assert 300 < missed < 450  # √(512 · 256) = 362 on average over starts
    assert 180 < float((sae.encode(rows) > 0).float().sum(1).mean()) < 330
    assert float(sae.W_enc.detach().std()) == pytest.approx(1, abs=0.01)


def test_settings_that_make_no_sense_are_refused():
    for change in ({"std": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(InputError, match="std must be above 0"):
            FacesReLU(**change)
