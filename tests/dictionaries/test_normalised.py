"""Dictionaries of rows that are normalised one by one: numbers by hand, the disk, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.dictionaries.base import OWN, Dictionary, DictionaryConfig, RowNorm
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gelu import GELU
from unweave.dictionaries.kmeans import KMeans
from unweave.dictionaries.normalised import NormalisedRows
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows
from unweave.testing.dictionaries.storage import check_exchange, check_saving
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.dictionaries.surface import check_reconstruct, check_sparse_codes
from unweave.testing.report import NotClaimedError

NORMS: tuple[RowNorm, ...] = ("layer_norm", "constant_norm_rescale")


def identity(row_norm: RowNorm, width: int = 2) -> NormalisedRows:
    """Two latents for each entry of z: its positive part and its negative part, so that nothing is missed."""
    made = ReLU(d_sae=2 * width).build(width)
    with torch.no_grad():
        made.W_dec.copy_(torch.cat([torch.eye(width), -torch.eye(width)]))
        made.W_enc.copy_(made.W_dec.T)
    return NormalisedRows(made, row_norm)


class OnNormalised(Subject):
    """The conformance suite's subject, its dictionaries wrapped."""

    row_norm: RowNorm = "layer_norm"

    def moved(self) -> Dictionary:
        """A wrapped one, its parameters moved off their start."""
        return NormalisedRows(super().moved(), self.row_norm)

    @property
    def trained(self) -> Dictionary:  # type: ignore[override]
        """A wrapped one."""
        if "kept" not in self.__dict__:
            self.kept = NormalisedRows(self.fit(self.planted.rows), self.row_norm).to_inference()
        return self.kept


@pytest.mark.parametrize("row_norm", NORMS)
@pytest.mark.parametrize(
    "config",
    [TopK(d_sae=32, k=3), BatchTopK(d_sae=32, k=3), GELU(d_sae=32), KMeans(d_sae=32)],
    ids=lambda one: one.kind,
)
def test_it_conforms(config: DictionaryConfig, row_norm: RowNorm) -> None:
    subject = OnNormalised(config)
    subject.row_norm = row_norm
    checks: list[Callable[[Subject], None]] = [check_reconstruct, check_sparse_codes, check_saving]
    for check in checks:
        check(subject)
    try:
        check_exchange(subject)
    except NotClaimedError:
        assert subject.trained.saelens() is None


def test_layer_norm_by_hand() -> None:
    sae = identity("layer_norm", 3)
    row = torch.tensor([1.0, 2.0, 6.0])  # mean 3, deviations −2, −1, 3: variance 14 / 2
    z = torch.tensor([-2.0, -1.0, 3.0]) / (7**0.5 + 1e-5)
    torch.testing.assert_close(sae.encode(row), torch.cat([z, -z]).relu())
    torch.testing.assert_close(sae.scales(row), torch.tensor([7**0.5]))
    torch.testing.assert_close(sae(row), row, atol=1e-4, rtol=0)
    one = torch.tensor([1.0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(sae.reconstruct(one, row), torch.tensor([3 + 7**0.5, 3, 3]))


def test_constant_norm_by_hand() -> None:
    sae = identity("constant_norm_rescale")
    row = torch.tensor([3.0, -4.0])  # length 5, scale 5 / √2
    z = torch.tensor([3.0, -4.0]) / 5 * 2**0.5
    torch.testing.assert_close(sae.encode(row), torch.tensor([z[0], 0, 0, -z[1]]))
    torch.testing.assert_close(sae.scales(row), torch.tensor([5 / 2**0.5]))
    torch.testing.assert_close(sae(row), row)


@pytest.mark.parametrize("row_norm", NORMS)
@given(factor=st.floats(0.01, 1000), shift=st.floats(-100, 100))
def test_codes_do_not_see_what_is_normalised_away(row_norm: RowNorm, factor: float, shift: float) -> None:
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    moved = rows * factor + (shift * factor if row_norm == "layer_norm" else 0)
    sae = identity(row_norm, 8)
    codes = sae.encode(rows)
    torch.testing.assert_close(sae.encode(moved), codes, atol=2e-3 if factor < 1 else 2e-4, rtol=1e-2)
    torch.testing.assert_close(sae.scales(moved), sae.scales(rows) * factor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("row_norm", NORMS)
def test_rows_that_are_all_one_number_and_tiny_and_huge_ones(row_norm: RowNorm) -> None:
    rows = torch.stack([torch.zeros(4), torch.full((4,), 3.0), 1e-20 * torch.arange(4.0), 1e15 * torch.arange(4.0)])
    rows.requires_grad_(True)
    sae = identity(row_norm, 4)
    codes, back = sae.encode(rows), sae(rows)
    assert torch.isfinite(codes).all()
    assert torch.equal(back[0], torch.zeros(4))
    torch.testing.assert_close(back[1], rows[1])
    torch.testing.assert_close(back[3], rows[3])
    (codes.sum() + back.sum()).backward()
    assert torch.isfinite(rows.grad[1:]).all()


@pytest.mark.parametrize("row_norm", NORMS)
def test_any_shape_and_none_at_all(row_norm: RowNorm) -> None:
    sae = identity(row_norm, 4)
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for x in (rows[0], rows[:0], rows.view(2, 3, 4)):
        assert sae(x).shape == x.shape
        assert sae.scales(x).shape == (*x.shape[:-1], 1)
    torch.testing.assert_close(sae(rows.view(2, 3, 4)).view(6, 4), sae(rows))


@pytest.mark.parametrize("row_norm", NORMS)
@pytest.mark.parametrize("config", [ReLU(d_sae=8), BatchTopK(d_sae=8, k=2), GELU(d_sae=8)], ids=lambda one: one.kind)
def test_the_disk_gives_back_the_same_bits(config: DictionaryConfig, row_norm: RowNorm, tmp_path: Path) -> None:
    within = config.build(4)
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    within.prepare(TensorRows(rows), torch.Generator().manual_seed(1))
    sae = NormalisedRows(within, row_norm).to_inference()
    sae.hook_name, sae.origin, sae.history = "blocks.3", {"format": "prisma"}, {"step": [1.0]}
    sae.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert (again.row_norm, again.config, again.hook_name) == (row_norm, config, "blocks.3")
    assert (again.origin, again.history) == ({"format": "prisma"}, {"step": [1.0]})
    assert torch.equal(again(rows), sae(rows))
    assert hash_module(again) == hash_module(sae)
    assert not (config.kind == "relu" and (tmp_path / "a" / OWN).exists())  # SAELens' tensors are all there is
    again.save(tmp_path / "a")  # it is there already
    with pytest.raises(InputError, match="overwrite"):
        within.save(tmp_path / "a")


def test_it_is_another_dictionary_than_the_one_within() -> None:
    both = [identity(row_norm) for row_norm in NORMS]
    assert len({hash_module(one) for one in (*both, both[0].of)}) == 3


def test_what_needs_rows_says_so() -> None:
    sae = identity("layer_norm")
    with pytest.raises(InputError, match=r"reconstruct\(codes, rows\)"):
        sae.decode(torch.zeros(1, 4))
    with pytest.raises(InputError, match="not trained"):
        sae.prepare(TensorRows(torch.randn(5, 2)), torch.Generator())


def test_what_cannot_be_wrapped() -> None:
    with pytest.raises(InputError, match="one entry"):
        NormalisedRows(ReLU(d_sae=3).build(1), "layer_norm")
    with pytest.raises(InputError, match="already"):
        NormalisedRows(identity("layer_norm"), "layer_norm")
    sae = NormalisedRows(ReLU(d_sae=3).build(1), "constant_norm_rescale")
    assert sae(torch.tensor([[2.0]])).shape == (1, 1)


def test_pre_activations_are_those_of_normalised_rows() -> None:
    sae, rows = identity("layer_norm", 4), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.pre_activations(rows).relu(), sae.encode(rows))
    within = KMeans(d_sae=3).build(4)
    assert getattr(NormalisedRows(within, "layer_norm"), "pre_activations", None) is None


def test_a_copy_is_its_own() -> None:
    sae: NormalisedRows = identity("layer_norm", 4)
    other, rows = copy.deepcopy(sae), torch.arange(8.0).square().view(2, 4)
    before: Tensor = other(rows)
    with torch.no_grad():
        sae.of.get_parameter("W_dec").zero_()
    assert torch.equal(other(rows), before)
