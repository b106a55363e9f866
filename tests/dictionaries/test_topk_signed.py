"""TopK that keeps negative pre-activations among the k largest."""

from pathlib import Path

import torch

from unweave.dictionaries.base import Step
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK

ROWS = torch.tensor([[3.0, -1.0, -2.0], [-5.0, -4.0, -6.0]])


def identity(*, signed: bool) -> TopK:
    return TopK(d_sae=3, k=2, signed=signed, b_dec="zero", aux=0)


def test_the_k_largest_whatever_their_sign() -> None:
    for signed, expected in (
        (True, [[3.0, -1.0, 0.0], [-5.0, -4.0, 0.0]]),
        (False, [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    ):
        sae = identity(signed=signed).build(3)
        with torch.no_grad():
            sae.W_enc.copy_(torch.eye(3))
            assert sae.encode(ROWS).tolist() == expected


def test_it_trains_by_the_dense_step_and_says_so() -> None:
    sae = identity(signed=True).build(3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(3))
        sae.W_dec.copy_(torch.eye(3))
    assert not sae.has_sparse_step()
    loss = sae.loss(ROWS, Step(0))
    loss.total.backward()
    assert float(loss.total.detach()) == (4 + 36) / 2  # what is left of each row, squared
    assert sae.W_dec.grad is not None
    assert sae.W_dec.grad[:, 2].tolist() == [(-2 * 3 * -2 + -2 * -5 * -6) / 2, (-2 * -1 * -2 + -2 * -4 * -6) / 2, 0.0]


def test_it_is_saved_and_no_other_library_has_a_word_for_it(tmp_path: Path) -> None:
    sae = identity(signed=True).build(3)
    sae.save(tmp_path / "sae")
    assert load(tmp_path / "sae").config == sae.config
    assert sae.saelens() is None
    assert identity(signed=False).build(3).saelens() is not None
