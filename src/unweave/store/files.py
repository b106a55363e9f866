"""The two file formats inside artifacts: safetensors for arrays, Parquet for tables."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
from torch import Tensor

from unweave.core.errors import StoreError
from unweave.store.drafts import disk_errors


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as one safetensors file.

    Raises:
        StoreError: there is no room on the disk, or it cannot be written to.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_errors(path):
        safetensors.torch.save_file(ready, path)
        with suppress(PermissionError):  # it makes files that are their owner's alone; some file systems know no other
            path.chmod(path.parent.stat().st_mode & 0o666)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, mapped into memory: bytes are read from disk when they are touched.

    The tensors are views of the file. What is written into one stays in memory and never reaches the file.

    Raises:
        StoreError: missing, cut short or not a safetensors file.
    """
    try:
        _check_regular(path)
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise StoreError(f"{path} is no whole safetensors file: {error}") from None


def save_table(path: Path, columns: Mapping[str, Any], *, rows_a_group: int | None = None) -> None:
    """Write columns (arrays or lists of equal length) as Parquet, in groups of so many rows that are read as one.

    Raises:
        StoreError: there is no room on the disk, or it cannot be written to.
    """
    table = pa.table(dict(columns))
    with disk_errors(path):
        pq.write_table(table, path, row_group_size=rows_a_group)


def load_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet table, or some of its columns.

    Raises:
        StoreError: missing, damaged, or without one of the columns.
    """
    try:
        _check_regular(path)
        return pq.read_table(path, columns=list(columns) if columns is not None else None)
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} is no readable Parquet table: {str(error).splitlines()[0]}") from None


def _check_regular(path: Path) -> None:
    """Refuse what could be waited for without end, as a named pipe, and what would be read as something else."""
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is no regular file; see what stands in its place")
