"""MNIST: 70,000 handwritten digits."""

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.datasets.base import DatasetConfig, MemoryImages, Split
from unweave.datasets.download import download

DATA_VARIABLE = "UNWEAVE_DATA"

MIRRORS: tuple[str, ...] = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# Of the decompressed bytes: the same file is compressed differently in different places.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

_UNSIGNED_BYTES = 8
_CLASSES = 10


@register("mnist")
@dataclass(frozen=True, kw_only=True)
class Mnist(DatasetConfig):
    """MNIST, grey images of handwritten digits, 60,000 to train and 10,000 to test, in ten classes.

    The four files, compressed (.gz) or not, are looked for in `data_dir` or else in the folder that the environment
    variable UNWEAVE_DATA names, there and in the subfolder `mnist`; else in the cache (~/.cache/unweave/mnist), where
    they are downloaded to when they are not there. Each file is checked against its known MD5.

    Shapes: pixels [n, 1, 28, 28].

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998; CC BY-SA 3.0.
    """

    limit: int | None = None
    "use only the first so many images of each split, for a quick look; all by default"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}: give the number of images to use, or none to use them all")

    def load(self, split: Split, data_dir: Path | None = None) -> MemoryImages:
        """Read one split.

        Args:
            split: train or test.
            data_dir: folder that holds the files itself or in its subfolder `mnist`; nothing is downloaded then.

        Raises:
            InputError: files are missing and cannot be downloaded, or are damaged, and what to do.
        """
        images_file, labels_file = _locate(split, data_dir)
        images = parse_idx(_verified(images_file, MD5[FILES[split][0]]), dims=3, where=str(images_file))
        labels = parse_idx(_verified(labels_file, MD5[FILES[split][1]]), dims=1, where=str(labels_file))
        if len(images) != len(labels):
            raise InputError(f"{images_file} has {len(images)} images, but {labels_file} has {len(labels)} labels")
        # astype copies: torch wants memory that it may write to, and a few images should not hold on to all.
        pixels = torch.from_numpy(images[: self.limit, None].astype(np.uint8))
        return MemoryImages(
            pixels, torch.from_numpy(labels[: self.limit].astype(np.int64)), [str(digit) for digit in range(_CLASSES)]
        )


def parse_idx(data: bytes, *, dims: int, where: str) -> UInt8[np.ndarray, "..."]:
    """Array of bytes from the IDX format: 0, 0, type, number of dimensions; each size as big-endian int32; the values.

    Args:
        data: a whole IDX file, decompressed.
        dims: number of dimensions that the array must have.
        where: what to call the file in errors.

    Raises:
        InputError: this is no IDX file of bytes with so many dimensions, or its length is not what its header says.
    """
    start = 4 + 4 * dims
    expected = bytes([0, 0, _UNSIGNED_BYTES, dims])
    if data[:4] != expected:
        raise InputError(
            f"{where}: no IDX file of bytes in {dims} dimensions "
            f"(begins with {data[:4].hex() or 'nothing'}, not {expected.hex()})"
        )
    if len(data) < start:
        raise InputError(f"{where}: the IDX header is cut off after {len(data)} bytes")
    shape = struct.unpack(f">{dims}I", data[4:start])
    if len(data) - start != math.prod(shape):
        sizes = " x ".join(str(size) for size in shape)
        raise InputError(f"{where}: the header promises {sizes} values, but {len(data) - start} follow")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def fetch(name: str, folder: Path, *, mirrors: Sequence[str], md5: str) -> Path:
    """The file `name` in the folder, downloaded from a mirror as `name.gz` where it is not there.

    Raises:
        InputError: no mirror gave the file with this MD5 (of its decompressed bytes).
    """
    found = _find(name, [folder])
    if found is not None:
        return found
    target = folder / f"{name}.gz"
    # The check is told the name because a file under way is called `.part`.
    download(
        [f"{mirror}{target.name}" for mirror in mirrors], target, lambda part: _check(part.read_bytes(), md5, name)
    )
    return target


def cache_folder() -> Path:
    """Where downloaded files are kept, after the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "unweave" / "mnist"


def _locate(split: Split, data_dir: Path | None) -> list[Path]:
    """The two files of a split: given folder, environment, cache, download."""
    folder, origin = data_dir, "--data-dir"
    if folder is None and (value := os.environ.get(DATA_VARIABLE)):
        folder, origin = Path(value), DATA_VARIABLE
    if folder is not None:
        found = _in_folder(FILES[split], folder.expanduser(), origin)
        if found:
            return found
    cache = cache_folder()
    try:
        return [fetch(name, cache, mirrors=MIRRORS, md5=MD5[name]) for name in FILES[split]]
    except InputError as error:
        everything = ", ".join(name for names in FILES.values() for name in names)
        raise InputError(
            f"MNIST is not on this machine: {error}. Without a connection, put the four files {everything} (with .gz "
            f"or without) into {cache}, or into a folder that --data-dir or {DATA_VARIABLE} names"
        ) from None


def _in_folder(names: Sequence[str], folder: Path, origin: str) -> list[Path]:
    """The files in a folder that the user named; nothing where UNWEAVE_DATA holds other data sets only."""
    if not folder.is_dir():
        raise InputError(f"{origin} is {folder}, which is not a folder: give the folder that holds the MNIST files")
    places = [folder, folder / "mnist"]
    files = {name: _find(name, places) for name in names}
    missing = [name for name, file in files.items() if file is None]
    if missing and (origin != DATA_VARIABLE or len(missing) < len(names)):
        raise InputError(
            f"MNIST: {' and '.join(missing)} (with .gz or without) not found in {places[0]} nor in {places[1]} "
            f"({origin}); put the file there, or give neither --data-dir nor {DATA_VARIABLE} to download it"
        )
    return [] if missing else [file for file in files.values() if file is not None]


def _find(name: str, places: Sequence[Path]) -> Path | None:
    candidates = (place / file for place in places for file in (name, f"{name}.gz"))
    return next((file for file in candidates if file.is_file()), None)


def _verified(file: Path, md5: str) -> bytes:
    try:
        return _check(file.read_bytes(), md5, str(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except InputError as error:
        raise InputError(f"{error}; delete it and put the original there, or let it be downloaded") from None


def _check(data: bytes, md5: str, where: str) -> bytes:
    """The decompressed bytes, if they are the right ones."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{where} is damaged: {error}") from None
    got = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if got != md5:
        raise InputError(f"{where} is not the original: the MD5 of its decompressed bytes is {got}, not {md5}")
    return data
