"""Photos: any folder of images, whatever its layout."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.datasets.base import ImageBatch, ImageDataset, Split
from unweave.datasets.celeba import Attributes, find_celeba, read_attributes, read_split
from unweave.datasets.folder_scan import FolderFiles, has_classes, scan_folder, scan_loose
from unweave.datasets.framed import FramedImages
from unweave.datasets.image_files import shorter_side
from unweave.datasets.image_folder import decoded
from unweave.datasets.splits import check_test_share, stratified_split

_LOG = logging.getLogger(__name__)
_ONE_CLASS = ["image"]
_MEASURED = 100
_LARGEST = 64


@register("photos")
@dataclass(frozen=True, kw_only=True)
class Photos(FramedImages):
    """Any folder of images: CelebA as it is unpacked, a subfolder for each class, or images that lie anyhow.

    `data_dir` is looked at in this order. CelebA: it holds `img_align_celeba/` (also twice, one in the other);
    `list_attr_celeba` and `list_eval_partition` beside it, as .csv or .txt, give attributes and the published split.
    Classes: it holds two subfolders or more, and no image lies beside them. Anything else: all images at any depth,
    without classes; their only class says nothing.

    Each image is turned upright, reduced to its largest centred square and resized. A split of up to 1 GiB of pixels
    is decoded at load; a larger one when it is read, by worker processes.

    Shapes: pixels [n, channels, size, size].

    Source: CelebA is Liu, Luo, Wang & Tang (2015), "Deep learning face attributes in the wild".
    """

    size: int | tuple[int, int] | None = None
    "width and height, or height and width; by default what the model's own preprocessing asks for, else that of the \
images themselves (the median of up to 100), but 64 at most"
    attribute: str | None = None
    "CelebA: the attribute that makes the two classes, Smiling for example; by default there are no classes"
    test_share: float = 0.2
    "share of the images (of each class) that is kept for the test split, where the folder brings none of its own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_test_share(self.test_share)

    def load(self, split: Split, data_dir: Path | None = None) -> "PhotoImages":
        """Read one split.

        Args:
            split: train or test.
            data_dir: the folder of images.

        Raises:
            InputError: there is no such folder or no image in it, a table does not fit the images, or images are
                broken and `on_broken` is "error".
        """
        if data_dir is None:
            raise InputError(f"the data set {self.kind!r} needs a folder of images: --images DIR, or --data-dir DIR")
        root = data_dir.expanduser()
        folder = find_celeba(root)
        if folder is not None:
            return self._celeba(root, folder, split)
        if self.attribute is not None:
            raise InputError(f"attribute is {self.attribute!r}, but {root} holds no CelebA (img_align_celeba/)")
        classes = has_classes(root)
        files = scan_folder(root) if classes else scan_loose(root, _ONE_CLASS)
        rows = stratified_split(files.labels, self.test_share)[split == "test"]
        return self._decoded(files, rows, "a folder for each class" if classes else "images without classes", None)

    def _celeba(self, root: Path, folder: Path, split: Split) -> "PhotoImages":
        files = scan_loose(folder, _ONE_CLASS)
        attributes = read_attributes(root, files.names)
        if self.attribute is not None:
            if attributes is None:
                raise InputError(f"{root} has no list_attr_celeba.csv or .txt, so {self.attribute!r} is not known")
            labels = attributes.column(self.attribute).astype(np.int64)
            names = [f"not {self.attribute}", self.attribute]
            files = FolderFiles(files.root, files.names, labels, names)
        rows = read_split(root, files.names, split)
        if rows is None:
            rows = stratified_split(files.labels, self.test_share)[split == "test"]
        return self._decoded(files, rows, "CelebA", attributes)

    def _decoded(
        self, files: FolderFiles, rows: Int64[np.ndarray, " m"], layout: str, attributes: Attributes | None
    ) -> "PhotoImages":
        if not len(rows):
            raise InputError(f"{files.root}: there is no image for this split; two images a class are the least")
        _LOG.info("%s: %s (%s images)", files.root, layout, f"{len(files):,}")
        framing = self.framing() if self.size is not None else self.framing(_own_size(files))
        files = files.select(rows)
        images, kept = decoded(files, framing, self.channels, self.on_broken)
        known = None if attributes is None else attributes.select(rows[kept])
        return PhotoImages(images, layout, [files.names[row] for row in kept], known)


def _own_size(files: FolderFiles) -> int:
    """The median of the shorter sides of up to 100 images, evenly spread over all, but 64 at most."""
    some = np.unique(np.linspace(0, len(files) - 1, _MEASURED).astype(np.int64))
    sides = [side for row in some if (side := shorter_side(files.path(int(row)))) is not None]
    return min(_LARGEST, int(np.median(sides))) if sides else _LARGEST


class PhotoImages(ImageDataset):
    """Images of a folder, with what is known of them.

    Attributes:
        layout: what kind of folder it is, in words.
        names: each image's file, below the folder.
        attributes: what is known of each image beyond its class, where something is.
    """

    def __init__(self, images: ImageDataset, layout: str, names: list[str], attributes: Attributes | None) -> None:
        self._images = images
        self.layout, self.names, self.attributes = layout, names, attributes
        self.labels, self.class_names, self.id = images.labels, images.class_names, images.id

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._images.shape

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""
        return self._images.pixels(index)

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, in their order."""
        return self._images.stream(index)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order, as floats in [0, 1]."""
        return self._images.batches(batch_size)


class Unlabelled(ImageDataset):
    """Images whose classes nobody is to know: stages that read it find no labels."""

    def __init__(self, images: ImageDataset) -> None:
        self._images = images
        self.labels = None  # type: ignore[assignment]  # stages ask for it, and take None for an answer
        self.class_names, self.id = [], images.id

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._images.shape

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices."""
        return self._images.pixels(index)

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, in their order."""
        return self._images.stream(index)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order, as floats in [0, 1]; of a class that says nothing."""
        for batch in self._images.batches(batch_size):
            yield batch._replace(labels=torch.zeros_like(batch.labels))


def labelled(images: ImageDataset) -> ImageDataset:
    """The images, without their labels where all have the same: one class says nothing about an image."""
    return images if len(images.class_names) > 1 else Unlabelled(images)
