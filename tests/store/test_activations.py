import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unweave.core.errors import InputError, StoreError
from unweave.store import activations as module
from unweave.store import mapped, order
from unweave.store.activation_writer import ActivationWriter
from unweave.store.activations import DTYPES, KIND, Activations, RowBlock
from unweave.store.artifact import MANIFEST, Identity, read_json, write_json, writing
from unweave.store.files import load_tensors, save_tensors
from unweave.store.order import WindowedOrder
from unweave.store.rows import RowSource, TensorRows
from unweave.store.scratch import Scratch
from unweave.store.shards import shard_name


def _block(start: int, n: int, d_in: int, *, labels: bool = True) -> RowBlock:
    """Row i is [i, i, …] of example i // 3, position i % 3, label i % 5: what belongs together can be seen."""
    index = torch.arange(start, start + n)
    rows = index.float()[:, None].expand(n, d_in)
    return RowBlock(rows, index // 3, index % 3, index % 5 if labels else None)


def _store(
    folder: Path, sizes: list[int], d_in: int = 2, *, rows_a_shard: int = 4, dtype: str = "float32"
) -> Activations:
    row_bytes = d_in * DTYPES[dtype].itemsize
    with writing(folder, Identity(kind=KIND, config={"sizes": sizes})) as draft:
        writer = ActivationWriter(draft.folder, dtype=dtype, shard_bytes=rows_a_shard * row_bytes)
        for row in range(sum(sizes)):  # batches of one row: shards are as long as they may be
            writer.add(_block(row, 1, d_in))
        draft.details.update(writer.close(), hook_name="fc1", class_names=["a", "b", "c", "d", "e"])
    return Activations(folder)


@pytest.fixture
def store(tmp_path: Path) -> Activations:
    return _store(tmp_path / "store", [5, 1, 4])


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from(sorted(DTYPES)),
)
def test_rows_and_what_belongs_to_them_stay_together(sizes: list[int], shard: int, d_in: int, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "s", sizes, d_in, rows_a_shard=shard, dtype=dtype)
        n = sum(sizes)
        index = torch.arange(n)
        assert (store.n, store.d_in, store.dtype) == (n, d_in, dtype)
        assert torch.equal(store.rows(0, n), index[:, None].expand(n, d_in).to(DTYPES[dtype]))
        assert torch.equal(store.example, index // 3)
        assert torch.equal(store.position, index % 3)
        assert store.label is not None
        assert torch.equal(store.label, index % 5)
        shards = store.manifest.details["shards"]
        assert sum(shards) == n
        assert all(rows == shard for rows in shards[:-1])
        assert 0 < shards[-1] <= shard


@given(st.integers(1, 11), st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=40)
def test_any_range_can_be_read_across_shards(shard: int, first: int, second: int) -> None:
    start, stop = sorted((first, second + 1)) if first != second + 1 else (first - 1, first)
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "s", [11], rows_a_shard=shard)
        assert store.rows(start, stop)[:, 0].tolist() == list(range(start, stop))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_precision_is_kept_on_disk_and_rows_come_as_float32(tmp_path: Path, dtype: str) -> None:
    values = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with writing(tmp_path / "s", Identity(kind=KIND, config=None)) as draft:
        writer = ActivationWriter(draft.folder, dtype=dtype)
        writer.add(RowBlock(values, torch.arange(50), torch.zeros(50, dtype=torch.int64)))
        draft.details.update(writer.close())
    store = Activations(tmp_path / "s")
    stored = values.to(DTYPES[dtype])
    assert store.label is None
    assert store.rows(0, 50).dtype == DTYPES[dtype]
    assert torch.equal(torch.cat(list(store.blocks(7))), stored.float())
    for batch in [*store.batches(7, seed=0, epoch=0), *store.batches(7, seed=0, epoch=0, shuffle=False)]:
        assert batch.dtype == torch.float32
    exact, moments = stored.double(), store.moments()
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-14, atol=1e-15)
    assert moments.variance == pytest.approx((exact - exact.mean(0)).square().sum(1).mean().item(), rel=1e-12)
    assert moments.mean_square_norm == pytest.approx(exact.square().sum(1).mean().item(), rel=1e-12)


def test_a_store_is_a_source_of_rows_with_a_name(store: Activations) -> None:
    assert isinstance(store, RowSource)
    assert store.hook_name == "fc1"
    assert store.class_names == ["a", "b", "c", "d", "e"]
    assert store.id == store.manifest.id
    assert "fc1" in repr(store)


def test_blocks_come_in_order(store: Activations) -> None:
    blocks = list(store.blocks(3))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert torch.cat(blocks)[:, 0].tolist() == list(range(10))


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    shard=st.integers(1, 20),
    block=st.integers(1, 12),
    window=st.integers(12, 45),
    batch_size=st.integers(1, 45),
    skip=st.integers(0, 8),
    dtype=st.sampled_from(sorted(DTYPES)),
    d_in=st.integers(1, 3),
)
def test_batches_hold_each_row_once_in_the_order_and_skip_whole_batches(
    n: int, shard: int, block: int, window: int, batch_size: int, skip: int, dtype: str, d_in: int
) -> None:
    row_bytes = d_in * DTYPES[dtype].itemsize
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK_BYTES", block * row_bytes)
        _store(Path(folder) / "s", [n], d_in, rows_a_shard=shard, dtype=dtype)
        store = Activations(Path(folder) / "s", window_bytes=window * row_bytes)
        for shuffle in (True, False):
            whole = list(store.batches(batch_size, seed=1, epoch=2, shuffle=shuffle))
            seen = torch.cat(whole)
            assert torch.equal(seen, seen[:, :1].expand(-1, d_in))
            numbers = WindowedOrder.of(n, row_bytes, window * row_bytes).numbers(seed=1, epoch=2)
            assert seen[:, 0].int().tolist() == (torch.cat(list(numbers)).tolist() if shuffle else list(range(n)))
            assert all(len(batch) == batch_size for batch in whole[:-1])
            left = list(store.batches(batch_size, seed=1, epoch=2, shuffle=shuffle, skip=skip))
            assert [batch.tolist() for batch in left] == [batch.tolist() for batch in whole[skip:]]


def test_a_small_store_and_a_tensor_come_in_the_same_order(store: Activations) -> None:
    tensor = TensorRows(store.rows(0, 10))
    for epoch in range(3):
        first, second = (torch.cat(list(rows.batches(4, seed=5, epoch=epoch))) for rows in (store, tensor))
        assert torch.equal(first, second)
    assert store.moments().variance == tensor.moments().variance


def test_a_window_of_less_than_a_block_is_refused(store: Activations) -> None:
    with pytest.raises(InputError, match="window_bytes=100 is too small"):
        Activations(store.folder, window_bytes=100)


def test_windows_of_another_size_make_another_order(store: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 8)
    assert store.order_id is None
    assert Activations(store.folder, window_bytes=1 << 20).order_id is None  # one window is one window
    assert Activations(store.folder, window_bytes=24).order_id == "windows of 3 blocks"


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs /proc")
@pytest.mark.parametrize("stay", [False, True])
def test_maps_of_a_large_store_are_gone_with_their_windows(
    store: Activations, monkeypatch: pytest.MonkeyPatch, stay: bool
) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 16)
    monkeypatch.setattr(mapped, "_STAYING_SHARE", float(stay))

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(store.folder))

    narrow = Activations(store.folder, window_bytes=16)
    before = maps()
    batches = narrow.batches(1, seed=0, epoch=0)
    next(batches)
    assert maps() <= before + 2 * len(narrow.manifest.details["shards"])
    batches.close()
    after = before + stay * len(narrow.manifest.details["shards"])
    assert before <= maps() <= after
    list(narrow.batches(3, seed=0, epoch=0))
    assert maps() == after
    list(narrow.batches(3, seed=0, epoch=1))
    assert maps() == after


def test_a_share_is_the_same_rows_of_each_batch(store: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 8)
    opened = Activations(store.folder, window_bytes=16)
    for shuffle, batch_size, skip in ((True, 4, 0), (True, 3, 1), (True, 9, 0), (False, 4, 1)):
        whole = list(opened.batches(batch_size, seed=0, epoch=0, shuffle=shuffle, skip=skip))
        share = opened.batches(
            batch_size, seed=0, epoch=0, shuffle=shuffle, skip=skip, share=lambda rows: (rows // 3, rows // 3 + 1)
        )
        for batch, mine in zip(whole, share, strict=True):
            assert torch.equal(batch[len(batch) // 3 :][:1], mine)


def test_a_shard_that_was_cut_short_after_it_was_opened_is_named(
    store: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 8)
    opened = Activations(store.folder, window_bytes=16)
    list(opened.batches(4, seed=0, epoch=0))
    path = store.folder / shard_name(0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors has .* bytes where its manifest says"):
        list(opened.batches(4, seed=0, epoch=0))


def test_a_change_to_what_was_read_does_not_reach_the_disk(store: Activations) -> None:
    store.rows(0, 2).fill_(99)
    assert Activations(store.folder).rows(0, 2)[:, 0].tolist() == [0, 1]
    next(iter(store.batches(4, seed=0, epoch=0))).fill_(99)
    assert sorted(torch.cat(list(Activations(store.folder).batches(4, seed=0, epoch=0)))[:, 0].tolist()) == list(
        range(10)
    )


def test_a_temporary_store_lives_as_long_as_its_object() -> None:
    scratch = Scratch()
    folder = scratch.path
    store = _store(folder / "s", [3]).keep(scratch)
    del scratch
    assert store.rows(0, 3)[:, 0].tolist() == [0, 1, 2]
    del store
    assert not folder.exists()


def _missing(folder: Path) -> Iterator[str]:
    (folder / shard_name(1)).unlink()
    yield r"shard-00001\.safetensors is missing"


def _short(folder: Path) -> Iterator[str]:
    path = folder / shard_name(0)
    path.write_bytes(path.read_bytes()[:-1])
    yield r"shard-00000\.safetensors has .* bytes"


def _flipped(folder: Path) -> Iterator[str]:
    path = folder / shard_name(2)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    yield r"shard-00002\.safetensors was changed or damaged"


def _moments_gone(folder: Path) -> Iterator[str]:
    (folder / "moments.safetensors").unlink()
    yield r"moments\.safetensors is missing"


def _change_details(folder: Path, **details: object) -> None:
    data = read_json(folder / MANIFEST)
    data["details"] |= details
    write_json(folder / MANIFEST, data, sealed=True)


def _fewer_rows_in_the_manifest(folder: Path) -> Iterator[str]:
    _change_details(folder, n=9)
    yield r"manifest\.json.*rows do not make 9"


def _no_details(folder: Path) -> Iterator[str]:
    _change_details(folder, shards=None)
    yield r"manifest\.json does not say what the shards hold"


@pytest.mark.parametrize(
    "damage", [_missing, _short, _flipped, _moments_gone, _fewer_rows_in_the_manifest, _no_details]
)
def test_a_damaged_store_is_one_error_that_names_the_file(
    store: Activations, damage: Callable[[Path], Iterator[str]]
) -> None:
    with pytest.raises(StoreError, match=next(damage(store.folder))):
        Activations(store.folder)


def test_a_shard_that_does_not_fit_its_manifest_is_named(store: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.folder / shard_name(0)
    tensors = load_tensors(path)
    save_tensors(path, {**tensors, "activations": tensors["activations"].half()})
    monkeypatch.setattr(module, "read_manifest", lambda *_, **__: store.manifest)
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors holds activations \[4, 2\] torch\.float16"):
        Activations(store.folder)


def test_another_artifact_is_no_store(tmp_path: Path) -> None:
    with writing(tmp_path / "a", Identity(kind="dictionary", config=None)):
        pass
    with pytest.raises(StoreError, match="kind 'dictionary', not 'activations'"):
        Activations(tmp_path / "a")
