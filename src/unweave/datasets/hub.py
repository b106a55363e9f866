"""Data sets of the hub, or local ones in its formats, through the package `datasets`: images or texts."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.optional import needs
from unweave.core.reachable import answers, switched_off
from unweave.core.registry import register
from unweave.datasets.base import Dataset, MemoryTexts, Split
from unweave.datasets.framed import FramedImages
from unweave.datasets.image_folder import decoded
from unweave.datasets.sources import ImageSources
from unweave.datasets.streamed import Encoded, StreamedImages
from unweave.datasets.text_file import column

_LABELS = ("label", "labels", "fine_label", "class", "category", "target")
_TEXTS = ("text", "sentence", "content", "review", "document")
_TEST_NAMES = ("test", "validation", "valid", "val", "dev")
_WHAT = "the data set 'hub'"
_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)  # of readers of foreign files


@register("hub")
@dataclass(frozen=True, kw_only=True)
class Hub(FramedImages):
    """A data set of the hub, or a local folder of parquet or arrow files: images, or texts, with or without labels.

    The column of images is the one that is of that type; else texts are read from a column of strings. Labels are those
    of a column of classes or numbers. Images are decoded when they are read (a split of up to 1 GiB of pixels at load);
    with `streaming` nothing is downloaded beforehand: the examples come once, in order. Code that a data set brings is
    never run.

    Shapes: pixels [n, channels, size, size].

    Source: https://github.com/huggingface/datasets.
    """

    name: str
    "ORG/NAME on the hub, a folder of parquet, arrow, csv or jsonl files, or one that save_to_disk wrote"
    subset: str | None = None
    "which of its configurations"
    revision: str | None = None
    "branch, tag or commit on the hub"
    train_split: str = "train"
    "its split for train; slices such as train[:1000] too, where it is no stream"
    test_split: str | None = None
    "its split for test; by default test or validation, whichever is there"
    image: str | None = None
    "column of the images; by default the first of that type"
    text: str | None = None
    "column of the texts; by default the one called text, sentence, content, review or document"
    label: str | None = None
    "column of the classes; by default the one called label, fine_label, class, category or target, if there is one"
    streaming: bool = False
    "read in order as it is downloaded: images only"
    most: int | None = None
    "at most so many examples, the first ones"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most is not None and self.most < 1:
            raise InputError(f"most is {self.most}: give the number of examples, 1 at least")

    def located(self) -> "Hub":
        """With the folder in full, where it is one."""
        folder = Path(self.name).expanduser()
        return dataclasses.replace(self, name=str(folder.resolve())) if folder.is_dir() else self

    def load(self, split: Split, data_dir: Path | None = None) -> Dataset:
        """Read one split.

        Args:
            split: train or test.
            data_dir: the folder that a relative `name` lies in.

        Raises:
            InputError: the package is not installed, the data set or the split is not there, or a column is missing.
        """
        library = needs("datasets", extra="hub", what=_WHAT)
        with self._explained(library):
            table = self._split(library, split, data_dir)
            features = table.features
            if features is None:  # a stream that does not say: look at its first row
                features = table._resolve_features().features
            image = self._image_column(library, features)
            if self.most is not None:
                table = table.take(self.most) if self.streaming else table.select(range(min(self.most, len(table))))
            if image is None:
                return self._texts(library, table, features)
            names, coded = self._classes(library, table, features)
            columns = [image] if coded is None else [image, coded]
            table = table.select_columns(columns).cast_column(image, library.Image(decode=False))
            framing = self.framing()
            if self.streaming:
                return self._streamed(table, image, coded, names, framing, split)
            if not len(table):
                raise InputError(f"{self.name}: its split for {split} is empty")
            files = TableImages(table, image, coded, names, self.name)
            return decoded(files, framing, self.channels, self.on_broken)[0]

    @contextlib.contextmanager
    def _explained(self, library: Any) -> Iterator[None]:
        bars = library.are_progress_bars_disabled()
        library.disable_progress_bars()
        try:
            yield
        except InputError:
            raise
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            ImportError,
            library.exceptions.DatasetsError,
        ) as error:
            said = " ".join(str(error).split())[:500]
            raise InputError(f"the data set {self.name} cannot be read ({type(error).__name__}): {said}") from error
        finally:
            if not bars:
                library.enable_progress_bars()

    def _split(self, library: Any, split: Split, data_dir: Path | None) -> Any:
        folder = Path(self.name).expanduser()
        folder = data_dir.expanduser() / folder if data_dir is not None and not folder.is_absolute() else folder
        if folder.is_dir() and any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return self._from_disk(library, folder, split)
        place = str(folder) if folder.is_dir() else self.name
        if not folder.is_dir():
            self._reachable(folder)
        known = library.get_dataset_split_names(place, self.subset, revision=self.revision)
        wanted = self._split_name(split, known)
        return library.load_dataset(place, self.subset, split=wanted, revision=self.revision, streaming=self.streaming)

    def _from_disk(self, library: Any, folder: Path, split: Split) -> Any:
        found = library.load_from_disk(str(folder))
        if not isinstance(found, dict):
            if split == "test" and self.test_split is None:
                raise InputError(f"{folder} holds one split alone; give a folder with a test split for --split test")
            return found.to_iterable_dataset() if self.streaming else found
        chosen = found[self._split_name(split, list(found))]
        return chosen.to_iterable_dataset() if self.streaming else chosen

    def _split_name(self, split: Split, known: list[str]) -> str:
        asked = self.train_split if split == "train" else self.test_split
        if asked is not None:
            if asked.partition("[")[0] not in known:
                flag = f"--data.{split}-split"
                raise InputError(f"{self.name} has no split {asked!r}; say {flag}, one of: {', '.join(known)}")
            return asked
        for name in _TEST_NAMES:
            if name in known:
                return name
        raise InputError(
            f"{self.name} has no split for test (it has {', '.join(known)}); say --data.test-split, train[80%:] for "
            "example, and --data.train-split train[:80%]"
        )

    def _reachable(self, folder: Path) -> None:
        if self.name.count("/") > 1 or self.name.startswith((".", "~", "/")):
            raise InputError(f"there is no folder {folder}; give one of parquet or arrow files, or ORG/NAME on the hub")
        hub = needs("huggingface_hub", extra="hub", what=_WHAT)
        if not switched_off() and not answers(hub.hf_hub_url(self.name, "README.md", repo_type="dataset")):
            raise InputError(
                f"there is no folder {folder}, and the hub does not answer, or has no such data set. Where there is a "
                f"network, run `hf download {self.name} --repo-type dataset --local-dir DIR`, copy DIR here and give "
                "--data.name DIR"
            )

    def _image_column(self, library: Any, features: Any) -> str | None:
        if self.image is not None:
            return column(list(features), self.image, (), "images", "--data.image", self.name)
        if self.text is not None:
            return None
        return next((name for name, kind in features.items() if isinstance(kind, library.Image)), None)

    def _label_column(self, features: Any) -> str | None:
        if self.label is not None:
            return column(list(features), self.label, (), "labels", "--data.label", self.name)
        return next((name for name in _LABELS if name in features), None)

    def _classes(self, library: Any, table: Any, features: Any) -> tuple[list[str], str | None]:
        """Names of the classes, and the column of their numbers; none where there are no labels."""
        label = self._label_column(features)
        if label is None:
            return ["image"], None
        kind = features[label]
        if isinstance(kind, library.ClassLabel):
            return list(kind.names), label
        if self.streaming:
            raise InputError(
                f"{self.name}: {label} has no names for its classes, which a stream has to say; leave out "
                "--data.streaming, or give a column of classes as --data.label"
            )
        found = table.unique(label)
        numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in found)
        if numbers and min(found) >= 0 and max(found) < max(10 * len(found), 1000):
            return [str(number) for number in range(max(found) + 1)], label
        return sorted(map(str, found)), label

    def _streamed(
        self, table: Any, image: str, label: str | None, names: list[str], framing: Framing, split: str
    ) -> StreamedImages:
        def source() -> Iterator[Encoded]:
            for number, row in enumerate(table):
                content, path = _bytes_of(row[image], f"{self.name}: image {number}")
                yield Encoded(f"{self.name}: {path or f'image {number}'}", content, int(row[label]) if label else 0)

        stamp = getattr(getattr(table, "info", None), "download_checksums", None)
        said = f"{self} {split} {sorted(stamp) if stamp else ''}"
        return StreamedImages(
            source,
            framing,
            self.channels,
            names,
            name=hashlib.blake2b(said.encode(), digest_size=8).hexdigest(),
            where=self.name,
            skip_broken=self.on_broken == "skip",
        )

    def _texts(self, library: Any, table: Any, features: Any) -> MemoryTexts:
        strings = [
            name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")
        ]
        usual = (*_TEXTS, *(strings if len(strings) == 1 else ()))
        text = column(list(features), self.text, usual, "texts", "--data.text", self.name)
        if self.streaming:
            raise InputError(
                "texts are read as a whole: leave out --data.streaming, and say --data.most for the first ones"
            )
        names, label = self._classes(library, table, features)
        texts = table[text][:] if not isinstance(table[text], list) else table[text]
        kept = [row for row, value in enumerate(texts) if isinstance(value, str) and value.strip()]
        if not kept:
            raise InputError(f"{self.name}: the column {text} holds no text")
        if label is None:
            return MemoryTexts([texts[row] for row in kept])
        numbers = _numbers(list(table[label]), names)
        return MemoryTexts([texts[row] for row in kept], torch.from_numpy(numbers[kept]), names)


def _bytes_of(value: Any, where: str) -> tuple[bytes, str]:
    if value is None:
        return b"", ""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, str(value))
    if content is not None:
        return content, path or ""
    if path and Path(path).is_file():
        return Path(path).read_bytes(), path
    raise InputError(f"{where}: its bytes are neither in the table nor in a file ({path})")


def _numbers(values: list[Any], names: list[str]) -> Int64[np.ndarray, " n"]:
    if all(isinstance(value, int) for value in values):
        return np.asarray(values, np.int64)
    place = {name: number for number, name in enumerate(names)}
    return np.asarray([place[str(value)] for value in values], np.int64)


class TableImages(ImageSources):
    """Images in a column of a table that lies on disk, mapped into memory."""

    def __init__(self, table: Any, image: str, label: str | None, class_names: list[str], where: str) -> None:
        self._table, self._image, self._label, self._where = table, image, label, where
        self.class_names = class_names
        self.labels = np.zeros(len(table), np.int64) if label is None else _numbers(list(table[label]), class_names)
        self._rows = np.arange(len(table))
        if len(self.labels) and self.labels.min() < 0:
            raise InputError(
                f"{where}: labels below 0 ({label}) stand for none; choose another split, or another --data.label"
            )

    @property
    def where(self) -> str:
        """The data set."""
        return self._where

    def name(self, row: int) -> str:
        """The number of one in the split."""
        return f"{self._where}: image {self._rows[row]}"

    def content(self, row: int) -> Path | BytesIO:
        """The bytes of one."""
        found, _ = _bytes_of(self._table[int(self._rows[row])][self._image], self.name(row))
        return BytesIO(found)

    def select(self, rows: Int64[np.ndarray, " m"]) -> "TableImages":
        """Only these, in this order."""
        made: TableImages = object.__new__(TableImages)
        made.__dict__.update(self.__dict__)
        made._rows, made.labels = self._rows[rows], self.labels[rows]
        return made

    def stamp(self) -> str:
        """The fingerprint that the package has of the table, and which rows of it are meant."""
        digest = hashlib.blake2b(str(self._table._fingerprint).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self._rows).tobytes())
        return digest.hexdigest()
