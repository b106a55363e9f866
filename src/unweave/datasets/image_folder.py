"""ImageFolder: the user's own images, a folder for each class."""

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.registry import register
from unweave.datasets.base import DatasetConfig, ImageDataset, MemoryImages, Split
from unweave.datasets.folder_scan import FolderFiles, listed, scan_folder
from unweave.datasets.image_files import BrokenImageError, check_header, read_image
from unweave.datasets.splits import check_test_share, stratified_split

MEMORY_BUDGET = 1 << 30
"""Bytes of pixels up to which a split is decoded once and kept in memory."""

_THREADS = min(16, os.cpu_count() or 1)
_FILES_PER_TASK = 32


@register("image-folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(DatasetConfig):
    """Your own images: `data_dir` holds a subfolder for each class, images lie in it or deeper.

    An image is every file with the suffix of a format that Pillow decodes; other files are left aside and named in one
    log line, hidden ones are passed over. Class names are the names of the subfolders, sorted; a subfolder without an
    image is an error. Each image is turned upright, reduced to its largest centred square and resized.

    A split of up to 1 GiB of pixels at this size is decoded at load and kept in memory; of a larger one only the
    headers are checked at load, and pixels are decoded when they are asked for.

    Shapes: pixels [n, channels, size, size].

    Source: the layout is that of `torchvision.datasets.ImageFolder`.
    """

    size: int = 64
    "width and height: the shorter side is resized to it, then the centre is cropped"
    channels: Literal[1, 3] = 3
    "3 for RGB, 1 for grey"
    test_share: float = 0.2
    "share of each class that is kept for the test split"
    on_broken: Literal["error", "skip"] = "error"
    "images that cannot be read: stop and name them, or leave them out with a warning that names them"

    def __post_init__(self) -> None:
        check_test_share(self.test_share)
        if self.size < 1:
            raise InputError(f"size is {self.size}: give the width and height that images shall have, 64 for example")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}: give 3 for RGB or 1 for grey")
        if self.on_broken not in ("error", "skip"):
            raise InputError(f"on_broken is {self.on_broken!r}: give 'error' or 'skip'")

    def load(self, split: Split, data_dir: Path | None = None) -> ImageDataset:
        """Read one split.

        Args:
            split: train or test.
            data_dir: the folder with a subfolder for each class.

        Raises:
            InputError: there is no such folder, a class has no image, or images are broken and `on_broken` is "error".
        """
        if data_dir is None:
            raise InputError(f"the data set {self.kind!r} needs --data-dir: a folder with a subfolder for each class")
        files = scan_folder(data_dir.expanduser())
        train, test = stratified_split(files.labels, self.test_share)
        files = files.select(train if split == "train" else test)
        if len(files) == 0:
            raise InputError(f"{files.root}: no class has two images, so there is none for the {split} split")
        if len(files) * self.channels * self.size**2 <= MEMORY_BUDGET:
            return self._in_memory(files)
        return self._on_demand(files)

    def _in_memory(self, files: FolderFiles) -> MemoryImages:
        pixels = np.empty((len(files), self.channels, self.size, self.size), dtype=np.uint8)

        def read(row: int) -> None:
            pixels[row] = read_image(files.path(row), self.size, self.channels)

        kept = _without_broken(files, _broken(read, len(files), "read images"), self.on_broken)
        if len(kept) < len(files):
            pixels = pixels[kept]
        labels = torch.from_numpy(files.labels[kept])
        return MemoryImages(torch.from_numpy(pixels), labels, files.class_names)

    def _on_demand(self, files: FolderFiles) -> "FolderImages":
        broken = _broken(lambda row: check_header(files.path(row)), len(files), "check images")
        return FolderImages(files.select(_without_broken(files, broken, self.on_broken)), self.size, self.channels)


class FolderImages(ImageDataset):
    """Images that are decoded whenever they are asked for: their pixels are more than memory should hold.

    The fingerprint is made of names, sizes and times of change of the files and of the size of the pixels.
    """

    def __init__(self, files: FolderFiles, size: int, channels: int) -> None:
        self._files = files
        self._size = size
        self._channels = channels
        self.labels = torch.from_numpy(files.labels)
        self.class_names = files.class_names
        self.id = _fingerprint(files, size, channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._channels, self._size, self._size

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices, decoded by several threads.

        Raises:
            InputError: a file is broken behind its header, which is all that was checked at load; names it.
        """
        rows = index.tolist()
        pixels = np.empty((len(rows), *self.shape), dtype=np.uint8)

        def read(place: int) -> None:
            pixels[place] = read_image(self._files.path(rows[place]), self._size, self._channels)

        broken = _broken(read, len(rows), None)
        if broken:
            raise InputError(f"{_count(broken)} broken: {listed(broken.values())}; mend or remove, then run again")
        return torch.from_numpy(pixels)


def _broken(work: Callable[[int], None], n: int, label: str | None) -> dict[int, str]:
    """Do the work for 0..n−1 in a pool of threads, with a bar where it has a label; what is broken, and why."""

    def some(start: int) -> dict[int, str]:
        found = {}
        for row in range(start, min(start + step, n)):
            try:
                work(row)
            except BrokenImageError as error:
                found[row] = str(error)
        return found

    # Small tasks keep every thread busy on a batch, larger ones spare 200,000 futures.
    step = max(1, min(_FILES_PER_TASK, n // (4 * _THREADS)))
    broken: dict[int, str] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        results = pool.map(some, range(0, n, step))
        if label is None:
            for found in results:
                broken |= found
        else:
            with progress(label, total=n, unit="images") as bar:
                for start, found in zip(range(0, n, step), results, strict=True):
                    broken |= found
                    bar.advance(min(step, n - start))
    finally:
        pool.shutdown(cancel_futures=True)
    return broken


def _without_broken(files: FolderFiles, broken: dict[int, str], on_broken: str) -> Int64[np.ndarray, " kept"]:
    """Rows that stay; broken ones raise an error or a warning that counts and names them."""
    rows = np.arange(len(files))
    if not broken:
        return rows
    what = f"{_count(broken)} of {len(files):,} in {files.root} broken"
    if on_broken == "error":
        raise InputError(f"{what}: {listed(broken.values())}; mend or remove, or leave out with --data.on-broken skip")
    kept = rows[~np.isin(rows, list(broken))]
    lost = sorted(set(files.labels.tolist()) - set(files.labels[kept].tolist()))
    if lost:
        names = listed([files.class_names[label] for label in lost])
        raise InputError(f"{what}, and no image is left of the class {names}: {listed(broken.values())}")
    warnings.warn(f"{what} and left out: {listed(broken.values(), most=len(broken))}", stacklevel=4)
    return kept


def _count(broken: dict[int, str]) -> str:
    return f"{len(broken):,} image{'' if len(broken) == 1 else 's'}"


def _fingerprint(files: FolderFiles, size: int, channels: int) -> str:
    digest = hashlib.blake2b(f"image-folder {size} {channels}".encode(), digest_size=8)
    for row, name in enumerate(files.names):
        stat = files.path(row).stat()
        digest.update(os.fsencode(name) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
