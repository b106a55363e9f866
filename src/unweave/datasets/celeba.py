"""CelebA as it is unpacked: where its images, attributes and splits lie."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from unweave.core.errors import InputError, did_you_mean

_IMAGES = "img_align_celeba"
_TABLES = {"attributes": "list_attr_celeba", "splits": "list_eval_partition"}
_SPLITS = {"train": 0, "test": 2}


@dataclass(frozen=True, eq=False)
class Attributes:
    """What is known of each image: yes or no for each of several names."""

    names: list[str]
    values: Bool[np.ndarray, "n names"]

    def column(self, name: str) -> Bool[np.ndarray, " n"]:
        """One attribute of all images.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.names:
            raise InputError(f"there is no attribute {name!r}: {did_you_mean(name, self.names)}")
        return np.asarray(self.values[:, self.names.index(name)])

    def select(self, rows: Int64[np.ndarray, " m"]) -> "Attributes":
        """Those of some images."""
        return Attributes(self.names, self.values[rows])


def find_celeba(root: Path) -> Path | None:
    """The folder of CelebA's images below `root`, also where an archive put it into another of its name; or None."""
    for folder in (root / _IMAGES / _IMAGES, root / _IMAGES):
        if folder.is_dir():
            return folder
    return None


def read_attributes(root: Path, names: list[str]) -> Attributes | None:
    """The attributes of images by file name; None where no table is there.

    Both forms are read: the original text (a count, a line of names, then a line for each image) and Kaggle's CSV.
    1 is yes; −1 and 0 are no.

    Raises:
        InputError: the table is damaged, or lacks one of the images.
    """
    path = _table(root, "attributes")
    if path is None:
        return None
    lines = _lines(path)
    if path.suffix == ".txt":
        lines = [["image_id", *lines[1]], *lines[2:]]
    known = {line[0]: line[1:] for line in lines[1:]}
    columns = lines[0][1:]
    rows = [_row(path, known, name, len(columns)) for name in names]
    return Attributes(columns, np.asarray(rows, dtype=np.int64).reshape(len(rows), len(columns)) == 1)


def read_split(root: Path, names: list[str], split: str) -> Int64[np.ndarray, " m"] | None:
    """Rows of the images that the published split deals to train or to test; None where no table is there.

    Its images for validation belong to neither.

    Raises:
        InputError: the table is damaged, or lacks one of the images.
    """
    path = _table(root, "splits")
    if path is None:
        return None
    known = {line[0]: line[1:] for line in _lines(path)}
    part = np.asarray([_row(path, known, name, 1)[0] for name in names], dtype=np.int64)
    return np.flatnonzero(part == _SPLITS[split]).astype(np.int64)


def _table(root: Path, what: str) -> Path | None:
    for suffix in (".csv", ".txt"):
        if (path := root / f"{_TABLES[what]}{suffix}").is_file():
            return path
    return None


def _lines(path: Path) -> list[list[str]]:
    """Non-empty lines as words."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            words = csv.reader(file) if path.suffix == ".csv" else map(str.split, file)
            lines = [line for line in words if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if len(lines) < 2:
        raise InputError(f"{path} has {len(lines)} lines: it is no table of CelebA's images")
    return lines


def _row(path: Path, known: dict[str, list[str]], name: str, width: int) -> list[int]:
    if name not in known:
        raise InputError(
            f"{path} has no line for {name}, which is among the images; get the table that belongs to them"
        )
    try:
        row = [int(word) for word in known[name]]
    except ValueError:
        row = []
    if len(row) != width:
        raise InputError(f"{path}: the line of {name} does not hold {width} whole numbers")
    return row
