"""What holds for every registered dictionary: a new one is tested by being there."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries import base
from unweave.dictionaries.base import OWN, WEIGHTS, Dictionary, DictionaryConfig
from unweave.dictionaries.exchange import CFG
from unweave.dictionaries.stored import load
from unweave.store.artifact import MANIFEST
from unweave.testing import CHECKS, example
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import name_of

KINDS = DictionaryConfig.registry.members()


@cache
def _subject(kind: str) -> Subject:
    """One for all checks of a kind, so that it is trained once."""
    return Subject(example(KINDS[kind]))


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def dictionary(kind: str) -> Dictionary:
    return _subject(kind).moved()


@pytest.fixture
def rows(kind: str) -> Tensor:
    return _subject(kind).held_out


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_it_conforms(kind: str, check: Callable[[Subject], None]) -> None:
    check(_subject(kind))


@settings(max_examples=10)
@given(order=st.permutations(range(12)), cut=st.integers(1, 12))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_code_of_a_row_does_not_depend_on_its_batch(kind: str, order: list[int], cut: int) -> None:
    dictionary, rows = _subject(kind).trained, _subject(kind).held_out
    codes = dictionary.encode(rows[:12])
    torch.testing.assert_close(dictionary.encode(rows[order[:cut]]), codes[order[:cut]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_sparse_codes_are_the_dense_ones_in_any_chunks(
    dictionary: Dictionary, rows: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_ENCODE_BYTES", chunk * 4 * dictionary.d_sae)
    frozen, rows = dictionary.to_inference(), rows[:15]
    torch.testing.assert_close(frozen.encode_sparse(rows).dense(), frozen.encode(rows))


def test_saving_twice_changes_nothing_and_other_weights_are_refused(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "a")
    stamp = (tmp_path / "a" / MANIFEST).stat().st_mtime_ns
    dictionary.save(tmp_path / "a")
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp
    next(iter(dictionary.state_dict().values())).add_(1)
    with pytest.raises(InputError, match="overwrite"):
        dictionary.save(tmp_path / "a")
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp
    dictionary.save(tmp_path / "a", overwrite=True)
    first = next(iter(load(tmp_path / "a").state_dict().values()))
    assert torch.equal(first, next(iter(dictionary.state_dict().values())))


def test_damage_is_one_error_that_names_the_file(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=WEIGHTS):
            load(tmp_path / "a")
    path.unlink()
    with pytest.raises(StoreError, match=WEIGHTS):
        load(tmp_path / "a")
    with pytest.raises(StoreError, match="no Unweave artifact"):
        load(tmp_path)


def test_nothing_on_disk_is_a_pickle(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.history = {"step": [1.0]}
    dictionary.save(tmp_path / "a")
    found = {path.name for path in (tmp_path / "a").iterdir()}
    assert found - {OWN} == {MANIFEST, WEIGHTS, CFG, "history.parquet"}
