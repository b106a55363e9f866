"""Tables of which one key's rows are read without the rest."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import StoreError
from unweave.store.files import save_table
from unweave.store.keyed import KeyedTable


@given(st.lists(st.integers(-2, 9), max_size=40), st.integers(1, 12), st.booleans())
def test_the_rows_of_a_key_come_in_the_tables_order(tmp_path_factory, keys, rows_a_group, is_sorted):
    key = np.array(sorted(keys) if is_sorted else keys, np.int32)
    path = tmp_path_factory.mktemp("t") / "x.parquet"
    save_table(path, {"name": [str(i) for i in range(len(key))], "key": key}, rows_a_group=rows_a_group)
    table = KeyedTable(path, "key")
    for wanted in range(-3, 11):
        found = table.rows(wanted)
        assert found["name"].to_pylist() == [str(i) for i in np.flatnonzero(key == wanted)]
        assert found.column_names == ["name", "key"]


def test_only_the_groups_of_the_key_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    save_table(path, {"key": np.repeat(np.arange(100), 3), "value": np.arange(300.0)}, rows_a_group=10)
    table = KeyedTable(path, "key")
    whole = path.read_bytes()
    third = pq.ParquetFile(path).metadata.row_group(3).column(1)
    damaged = bytearray(whole)
    damaged[third.data_page_offset : third.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(bytes(damaged))
    table = KeyedTable(path, "key")
    assert table.rows(0)["value"].to_pylist() == [0, 1, 2]
    assert table.rows(99)["value"].to_pylist() == [297, 298, 299]
    with pytest.raises(StoreError, match=r"x\.parquet is damaged"):
        table.rows(11)


def test_threads_share_a_table(tmp_path: Path) -> None:
    save_table(tmp_path / "x", {"key": np.repeat(np.arange(200), 5), "value": np.arange(1000)}, rows_a_group=16)
    table = KeyedTable(tmp_path / "x", "key")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: table.rows(key)["value"].to_pylist(), range(200)))
    assert found == np.arange(1000).reshape(200, 5).tolist()


def test_what_is_no_such_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone does not exist"):
        KeyedTable(tmp_path / "gone", "key")
    with pytest.raises(StoreError, match="no readable Parquet table"):
        KeyedTable(tmp_path, "key")
    save_table(tmp_path / "x", {"a": [1], "b": [2]})
    with pytest.raises(StoreError, match="x has no column 'key'; it has: a, b"):
        KeyedTable(tmp_path / "x", "key")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-9])
    with pytest.raises(StoreError, match="x is no readable Parquet table"):
        KeyedTable(tmp_path / "x", "a")
