"""ImageFolder: the user's own images, a folder for each class."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.progress import progress
from unweave.core.registry import register
from unweave.datasets.base import ImageBatch, ImageDataset, MemoryImages, Split
from unweave.datasets.decoding import Decoded, FileDecoder, check_all, decode_all
from unweave.datasets.folder_scan import listed, scan_folder
from unweave.datasets.framed import FramedImages
from unweave.datasets.sources import ImageSources
from unweave.datasets.splits import check_test_share, stratified_split

MEMORY_BUDGET = 1 << 30
"""Bytes of pixels up to which a split is decoded once and kept in memory."""


@register("image-folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(FramedImages):
    """Your own images: `data_dir` holds a subfolder for each class, images lie in it or deeper.

    An image is every file with the suffix of a format that Pillow decodes; other files are left aside and named in one
    log line, hidden ones are passed over. Class names are the names of the subfolders, sorted; a subfolder without an
    image is an error. Each image is turned upright, reduced to its largest centred square and resized.

    A split of up to 1 GiB of pixels at this size is decoded at load and kept in memory; of a larger one only the
    headers are checked at load, and pixels are decoded when they are asked for.

    Shapes: pixels [n, channels, size, size].

    Source: the layout is that of `torchvision.datasets.ImageFolder`.
    """

    test_share: float = 0.2
    "share of each class that is kept for the test split"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_test_share(self.test_share)

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
        return decoded(files, self.framing(), self.channels, self.on_broken)[0]


def decoded(
    files: ImageSources, size: int | Framing, channels: int, on_broken: str
) -> tuple[ImageDataset, Int64[np.ndarray, " kept"]]:
    """Images of files, in memory where they fit the budget, and which of the files they are.

    Raises:
        InputError: images are broken and `on_broken` is "error", or a class has no other.
    """
    framing = Framing(height=size, width=size) if isinstance(size, int) else size
    in_memory = len(files) * channels * framing.height * framing.width <= MEMORY_BUDGET
    with progress("read images" if in_memory else "check images", total=len(files), unit="images") as bar:
        if in_memory:
            pixels, broken = decode_all(files, framing, channels, bar.advance)
        else:
            broken = check_all(files, bar.advance)
    kept = _without_broken(files, broken, on_broken)
    if not in_memory:
        return FolderImages(files.select(kept), framing, channels), kept
    if broken:
        pixels = pixels[kept]
    return MemoryImages(pixels, torch.from_numpy(files.labels[kept]), files.class_names), kept


class FolderImages(ImageDataset):
    """Images that are decoded whenever they are asked for: their pixels are more than memory should hold.

    The fingerprint is made of names, sizes and times of change of the files and of the size of the pixels.

    Attributes:
        workers: processes that decode what is read in order; by default one for each core but one.
    """

    def __init__(self, files: ImageSources, size: int | Framing, channels: int, *, workers: int | None = None) -> None:
        self.workers = workers
        self._decoder = FileDecoder(files, size, channels)
        self._channels = channels
        self.labels = torch.from_numpy(files.labels)
        self.class_names = files.class_names
        self.id = _fingerprint(files, self._decoder.framing, channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._channels, self._decoder.framing.height, self._decoder.framing.width

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices, decoded by several threads.

        Raises:
            InputError: a file is broken behind its header, which is all that was checked at load; names it.
        """
        (found,) = self._whole(self._decoder.batches([index.tolist()], workers=0))
        return found

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, decoded ahead by worker processes; how many there are changes nothing.

        Raises:
            InputError: a file is broken behind its header, which is all that was checked at load; names it.
        """
        return self._whole(self._decoder.batches([batch.tolist() for batch in index], workers=self.workers))

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order, as floats in [0, 1], decoded ahead."""
        index = torch.arange(len(self)).split(batch_size)
        for rows, pixels in zip(index, self.stream(index), strict=True):
            yield ImageBatch(pixels.float() / 255, self.labels[rows], rows)

    def _whole(self, batches: Iterable[Decoded]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        for pixels, broken in batches:
            if broken:
                what = f"{_count(broken)} broken: {listed(broken.values())}"
                raise InputError(f"{what}; mend or remove, then run again")
            yield pixels


def _without_broken(files: ImageSources, broken: dict[int, str], on_broken: str) -> Int64[np.ndarray, " kept"]:
    """Rows that stay; broken ones raise an error or a warning that counts and names them."""
    rows = np.arange(len(files))
    if not broken:
        return rows
    what = f"{_count(broken)} of {len(files):,} in {files.where} broken"
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


def _fingerprint(files: ImageSources, framing: Framing, channels: int) -> str:
    said = f"image-folder {framing.height} {channels}"
    if framing != Framing(height=framing.height, width=framing.height):  # squares as they have always been say no more
        said += f" {framing}"
    return hashlib.blake2b(f"{said} {files.stamp()}".encode(), digest_size=8).hexdigest()
