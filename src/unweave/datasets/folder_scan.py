"""The image files below a folder with a subfolder for each class."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from unweave.core.errors import InputError
from unweave.datasets.image_files import image_suffixes
from unweave.datasets.sources import ImageSources

_LOG = logging.getLogger(__name__)

# Subfolders that hold splits of a data set: read as classes, they would give a result that means nothing.
_USUAL = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif")
_SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


@dataclass(frozen=True, eq=False)
class FolderFiles(ImageSources):
    """Image files by name below `root`, with `/`, and their classes."""

    root: Path
    names: list[str]
    labels: Int64[np.ndarray, " n"]
    class_names: list[str]

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def name(self, row: int) -> str:
        """Where one of the files lies, in words."""
        return str(self.path(row))

    def content(self, row: int) -> Path:
        """Where one of the files lies."""
        return self.path(row)

    def path(self, row: int) -> Path:
        """Where one of the files lies."""
        return self.root / self.names[row]

    def select(self, rows: Int64[np.ndarray, " m"]) -> "FolderFiles":
        """Only these files, in this order."""
        return FolderFiles(self.root, [self.names[row] for row in rows], self.labels[rows], self.class_names)

    def stamp(self) -> str:
        """Fingerprint of names, sizes and times of change."""
        digest = hashlib.blake2b(digest_size=8)
        for row, name in enumerate(self.names):
            stat = self.path(row).stat()
            digest.update(os.fsencode(name) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
        return digest.hexdigest()


def scan_folder(root: Path) -> FolderFiles:
    """All images of all classes, sorted by class and name; other files are named in one log line.

    Raises:
        InputError: the folder is missing or unreadable, has no subfolder, one of them holds no image, or the classes
            seem to lie one level deeper.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: --data-dir shall be one that holds a subfolder for each class")
    try:
        top = sorted(_visible(root), key=lambda entry: entry.name)
        classes = [entry.name for entry in top if entry.is_dir()]
        loose = [entry.name for entry in top if entry.is_file()]
        found = {name: sorted(_files(root / name, name, ())) for name in classes}
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror or error}") from None
    images = {name: [file for file in files if _is_image(file)] for name, files in found.items()}
    _check_classes(root, images)
    others = [file for files in found.values() for file in files if not _is_image(file)]
    _log_ignored(root, loose, others)
    names = [file for files in images.values() for file in files]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in images.values()])
    return FolderFiles(root, names, labels, classes)


def scan_loose(root: Path, class_names: list[str]) -> FolderFiles:
    """All images below a folder at any depth, sorted by name, in one class; other files are named in one log line.

    Raises:
        InputError: the folder is missing or unreadable, or holds no image.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give one that holds images")
    try:
        found = sorted(name.removeprefix("./") for name in _files(root, ".", ()))
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror or error}") from None
    names = [name for name in found if _is_image(name)]
    if not names:
        raise InputError(f"{root} holds no image, nor do the folders below it (images end in {_known_suffixes()})")
    _log_ignored(root, [], [name for name in found if not _is_image(name)])
    return FolderFiles(root, names, np.zeros(len(names), np.int64), class_names)


def has_classes(root: Path) -> bool:
    """Whether a folder looks as if it had a subfolder for each class: two or more, and no image beside them."""
    try:
        top = list(_visible(root)) if root.is_dir() else []
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror or error}") from None
    folders = [entry.name for entry in top if entry.is_dir()]
    splits = _SPLIT_NAMES.issuperset(name.lower() for name in folders)
    return len(folders) > 1 and not splits and not any(_is_image(entry.name) for entry in top if entry.is_file())


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for a message, the first few of them where they are many."""
    shown = list(names)
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _visible(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _files(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Names of all files below a folder; links are followed, but not round in a circle."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in _visible(folder):
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _files(folder / entry.name, name, (*above, here))
        # A link to nowhere is kept: it is an image that cannot be read, and is named as such.
        elif entry.is_file() or entry.is_symlink():
            yield name


def _known_suffixes() -> str:
    """The usual suffixes of images, and how many others there are."""
    usual = [suffix for suffix in _USUAL if suffix in image_suffixes()]
    return f"{', '.join(usual)} or one of {len(image_suffixes()) - len(usual)} others"


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()  # noqa: PTH122 - four times faster than a Path


def _check_classes(root: Path, images: dict[str, list[str]]) -> None:
    if not images:
        raise InputError(f"{root} has no subfolder: put the images of each class into a subfolder with its name")
    if _SPLIT_NAMES.issuperset(name.lower() for name in images):
        raise InputError(
            f"{root} has subfolders for splits ({listed(images)}), not for classes: give one of them as --data-dir, "
            f"{root / next(iter(images))} for example; its images are split into train and test by test_share"
        )
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise InputError(
            f"{root}: no image in the class folder {listed(empty)}: put images there or remove it "
            f"(images end in {_known_suffixes()})"
        )
    if len(images) == 1:
        (name, files), *_ = images.items()
        inner = {file.split("/")[1] for file in files} if all(file.count("/") > 1 for file in files) else set()
        if len(inner) > 1:
            raise InputError(
                f"{root} has one subfolder, {name}, whose own subfolders look like the classes ({listed(sorted(inner))}"
                f"): give {root / name} as --data-dir"
            )


def _log_ignored(root: Path, loose: list[str], others: list[str]) -> None:
    images = [name for name in loose if _is_image(name)]
    ignored = images + [name for name in loose if not _is_image(name)] + others
    if ignored:
        # Images outside of every class may be a mistake; a table or a note beside the images is none.
        level = logging.WARNING if images else logging.INFO
        about = f" ({len(images):,} of them images that lie in no class folder)" if images else ""
        _LOG.log(level, "%s: ignored %s files%s: %s", root, f"{len(ignored):,}", about, listed(ignored))
