"""Parquet tables of which one key's rows are read without the rest."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unweave.core.errors import StoreError

ROWS_A_GROUP = 8192


class KeyedTable:
    """A Parquet table, opened to read the rows of one value of a whole-number column.

    Where the table is sorted by that column and written in small groups (`save_table(…, rows_a_group=ROWS_A_GROUP)`),
    only the one or two groups that hold the key are read. Any other table is read whole each time, with the same
    result. Threads may share one.

    Raises:
        StoreError: the file is missing, damaged, or has no such column.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._lock = threading.Lock()
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist") from None
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} is no readable Parquet table: {str(error).splitlines()[0]}") from None
        names = self._file.schema_arrow.names
        if key not in names:
            raise StoreError(f"{path} has no column {key!r}; it has: {', '.join(names)}")
        groups, column = self._file.metadata, names.index(key)
        ranges = [groups.row_group(group).column(column).statistics for group in range(groups.num_row_groups)]
        known = [kept is not None and kept.has_min_max for kept in ranges]  # a group that does not say is read
        self._low = np.array([r.min if yes else -np.inf for r, yes in zip(ranges, known, strict=True)])
        self._high = np.array([r.max if yes else np.inf for r, yes in zip(ranges, known, strict=True)])

    def rows(self, key: int) -> pa.Table:
        """The rows of one key, in the table's order."""
        groups = np.flatnonzero((self._low <= key) & (key <= self._high)).tolist()
        with self._lock:
            try:
                table = self._file.read_row_groups(groups, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise StoreError(f"{self._path} is damaged: {str(error).splitlines()[0]}") from None
        return table.filter(pc.equal(table[self._key], key)).combine_chunks()
