"""Texts of a file: one a line, or a column of a table."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unweave.core.errors import InputError, did_you_mean
from unweave.core.registry import register
from unweave.datasets.base import DatasetConfig, MemoryTexts, Split
from unweave.datasets.splits import check_test_share, stratified_split

_TEXT_COLUMNS = ("text", "sentence", "content", "review", "document")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (".txt", *_JSON_LINES, *_DELIMITERS)


@register("text-file")
@dataclass(frozen=True, kw_only=True)
class TextFile(DatasetConfig):
    """Your own texts: `data_dir` is a file with a text a line, or a table (.jsonl, .csv, .tsv) with a column of texts.

    Empty lines are left out. Labels may be numbers or words; words become classes in alphabetical order. A file is
    split into train and test by class, always in the same way; a folder that holds `train` and `test` files of one kind
    keeps its own split. Files are UTF-8.
    """

    text: str | None = None
    "column of the texts; by default the one called text, sentence, content, review or document"
    label: str | None = None
    "column of the labels; by default the one called label, class, category or target, if there is one"
    test_share: float = 0.2
    "share of each class that is kept for the test split"

    def __post_init__(self) -> None:
        check_test_share(self.test_share)

    def load(self, split: Split, data_dir: Path | None = None) -> MemoryTexts:
        """Read one split.

        Args:
            split: train or test.
            data_dir: the file, or a folder with a file for each split.

        Raises:
            InputError: there is no such file, it is no UTF-8, a line is no JSON, or a column is missing.
        """
        if data_dir is None:
            raise InputError(
                f"the data set {self.kind!r} needs --data-dir: a file of texts, .txt, .jsonl, .csv or .tsv"
            )
        place = data_dir.expanduser()
        if place.is_dir():
            files = [_of_split(place, one) for one in ("train", "test")]
            chosen = files[split == "test"]
            texts, labels = self._read(chosen)
            classes = (
                None if labels is None else _classes([label for one in files for label in self._read(one)[1] or ()])
            )
            return labelled_texts(texts, labels, classes, chosen)
        texts, labels = self._read(place)
        whole = labelled_texts(texts, labels, None, place)
        rows = stratified_split(whole.labels.numpy(), self.test_share)[split == "test"]
        if not len(rows):
            raise InputError(f"{place}: no class has two texts, so there is none for the {split} split")
        return MemoryTexts([whole.texts[row] for row in rows], whole.labels[torch.from_numpy(rows)], whole.class_names)

    def _read(self, path: Path) -> tuple[list[str], list[Any] | None]:
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else f"it is no UTF-8: {error}"
            raise InputError(f"{path} cannot be read: {why}") from None
        suffix = path.suffix.lower()
        if suffix in (".jsonl", ".ndjson", ".csv", ".tsv"):
            rows = (
                _json_lines(path, content) if suffix not in _DELIMITERS else _table(path, content, _DELIMITERS[suffix])
            )
            return columns(list(rows), self.text, self.label, str(path))
        texts = [line.strip() for line in content.splitlines()]
        return [text for text in texts if text], None


def _of_split(folder: Path, split: str) -> Path:
    found = sorted(
        path for path in folder.glob(f"{split}.*") if path.suffix in (".txt", ".jsonl", ".ndjson", ".csv", ".tsv")
    )
    if len(found) != 1:
        raise InputError(
            f"{folder} holds {len(found)} files {split}.txt, .jsonl, .csv or .tsv; give a file, or one of each split"
        )
    return found[0]


def _json_lines(path: Path, content: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a {type(row).__name__}, not an object with a column of texts")
        yield row


def _table(path: Path, content: str, delimiter: str) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise InputError(f"{path}: no table ({error})") from None


def columns(
    rows: Sequence[Mapping[str, Any]], text: str | None, label: str | None, where: str
) -> tuple[list[str], list[Any] | None]:
    """Texts and labels of a table; rows without text are left out.

    Args:
        rows: by column.
        text: column of the texts, or None for the one with a usual name.
        label: column of the labels, or None for the one with a usual name, if there is one.
        where: the table, for messages.

    Raises:
        InputError: there is no such column, or a text is something else.
    """
    known = list(dict.fromkeys(str(name) for row in rows for name in row if name is not None))
    text = column(known, text, _TEXT_COLUMNS, "texts", "--data.text", where)
    if label is not None or any(name in known for name in _LABEL_COLUMNS):
        label = column(known, label, _LABEL_COLUMNS, "labels", "--data.label", where)
    texts, labels = [], []
    for number, row in enumerate(rows, 1):
        value = row.get(text)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}, row {number}: {text} is a {type(value).__name__}, not a text")
        texts.append(value.strip())
        if label is not None:
            if row.get(label) is None:
                raise InputError(f"{where}, row {number} has no {label}")
            labels.append(row[label])
    return texts, labels if label is not None else None


def column(known: Sequence[str], asked: str | None, usual: Sequence[str], what: str, flag: str, where: str) -> str:
    """The column that is meant.

    Raises:
        InputError: there is none of that name; or none was named, and none has a usual one.
    """
    if asked is not None:
        if asked not in known:
            raise InputError(f"{where} has no column {asked!r}: {did_you_mean(asked, known)}")
        return asked
    for name in usual:
        if name in known:
            return name
    raise InputError(f"{where}: which column holds the {what}? Say {flag}, one of: {', '.join(known)}")


def labelled_texts(
    texts: Sequence[str], labels: Sequence[Any] | None, classes: list[str] | None, where: object
) -> MemoryTexts:
    """Texts with their labels as numbers of classes.

    Raises:
        InputError: there is no text.
    """
    if not texts:
        raise InputError(f"{where} holds no text")
    if labels is None:
        return MemoryTexts(texts)
    classes = classes or _classes(labels)
    numbers = {name: number for number, name in enumerate(classes)}
    return MemoryTexts(texts, torch.from_numpy(np.asarray([numbers[str(one)] for one in labels], np.int64)), classes)


def _classes(labels: Sequence[Any]) -> list[str]:
    """Names of the classes: numbers in their order, words in alphabetical order."""
    names = sorted({str(one) for one in labels})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return names
