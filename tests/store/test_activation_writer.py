import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.store.activation_writer import ActivationWriter, save_moments, shard_rows
from unweave.store.activations import DTYPES, RowBlock
from unweave.store.files import load_tensors
from unweave.store.pieces import Piece, ShardSums
from unweave.store.shards import MOMENTS, shard_name


def _block(start: int, n: int, d_in: int = 2) -> RowBlock:
    index = torch.arange(start, start + n)
    return RowBlock(index.float()[:, None].expand(n, d_in), index // 3, index % 3, index % 5)


def _written(folder: Path, sizes: list[int], most: int, *, d_in: int = 2) -> list[int]:
    """Shards of at most so many rows, or of one batch."""
    writer = ActivationWriter(folder, shard_bytes=most * d_in * 4)
    for size, stop in zip(sizes, itertools.accumulate(sizes), strict=True):
        writer.add(_block(stop - size, size, d_in))
    shards = writer.close()["shards"]
    assert [len(load_tensors(folder / shard_name(i))["label"]) for i in range(len(shards))] == shards
    return shards


@pytest.mark.parametrize(
    ("sizes", "most", "shards"),
    [
        ([3, 3, 3, 3], 6, [6, 6]),
        ([3, 3, 3, 3], 7, [6, 6]),
        ([3, 3, 3, 1], 5, [3, 3, 4]),
        ([9, 1, 1, 9], 2, [9, 2, 9]),
        ([0, 2, 0, 2, 0], 4, [4]),
        ([1], 100, [1]),
    ],
)
def test_a_shard_holds_whole_batches(tmp_path: Path, sizes: list[int], most: int, shards: list[int]) -> None:
    assert _written(tmp_path, sizes, most) == shards


def test_a_store_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row was captured"):
        ActivationWriter(tmp_path).close()
    writer = ActivationWriter(tmp_path)
    writer.add(_block(0, 0))
    with pytest.raises(InputError, match="no row was captured"):
        writer.close()


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    writer = ActivationWriter(tmp_path)
    writer.add(_block(0, 2, 3))
    with pytest.raises(InputError, match="rows of width 1 follow rows of width 3"):
        writer.add(_block(2, 2, 1))


def test_memory_of_the_writer_stays_below_two_shards(tmp_path: Path) -> None:
    writer = ActivationWriter(tmp_path, shard_bytes=10 * 8)
    for start in range(0, 100, 3):
        writer.add(_block(start, 3))
        assert sum(len(block.activations) for block in writer._pending) <= 10
    assert writer.close()["shards"] == [9] * 11 + [3]


def test_each_shard_is_told_of_once_it_is_whole(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    def finished(piece: Piece) -> None:
        told.append((piece.name, len(load_tensors(tmp_path / piece.name)["example"])))
        assert (piece.stop - piece.first) * 2 == sum(piece.rows) == told[-1][1]

    writer = ActivationWriter(tmp_path, shard_bytes=4 * 8, finished=finished)
    for start in range(0, 10, 2):
        writer.add(_block(start, 2))
    assert [name for name, _ in told] == [shard_name(0), shard_name(1)]
    writer.close()
    assert told == [(shard_name(0), 4), (shard_name(1), 4), (shard_name(2), 2)]


def test_the_room_of_a_shard() -> None:
    assert shard_rows(100, 5, "float32") == 5
    assert shard_rows(100, 5, "float16") == 10
    assert shard_rows(3, 5, "bfloat16") == 1


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e4, 1e4), st.integers(0, 99))
def test_moments_of_shards_combine_into_those_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], offset: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("moments")
    shards = [torch.randn(n, 3, generator=torch.Generator().manual_seed(seed + n)) + offset for n in sizes]
    save_moments(folder, [ShardSums.of(rows) for rows in shards])
    stored, exact = load_tensors(folder / MOMENTS), torch.cat(shards).double()
    assert torch.allclose(stored["mean"], exact.mean(0), rtol=1e-12)
    variance = float((exact - exact.mean(0)).square().sum(1).mean())
    assert float(stored["variance"]) == pytest.approx(variance, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_moments_are_of_the_rows_as_stored(tmp_path: Path, dtype: str) -> None:
    rows = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) / 3
    writer = ActivationWriter(tmp_path, dtype=dtype)
    writer.add(RowBlock(rows, torch.arange(50), torch.zeros(50, dtype=torch.int64)))
    writer.close()
    mean = load_tensors(tmp_path / MOMENTS)["mean"]
    assert torch.allclose(mean, rows.to(DTYPES[dtype]).double().mean(0), rtol=1e-14)
