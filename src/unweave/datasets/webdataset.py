"""WebDataset: images and labels as consecutive members of tar files."""

import dataclasses
import glob
import hashlib
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.optional import needs
from unweave.core.progress import progress
from unweave.core.registry import register
from unweave.datasets.base import Dataset, Split
from unweave.datasets.framed import FramedImages
from unweave.datasets.image_files import image_suffixes
from unweave.datasets.image_folder import decoded
from unweave.datasets.sources import ImageSources
from unweave.datasets.splits import check_test_share, stratified_split
from unweave.datasets.streamed import Encoded, StreamedImages

_MOST_SHARDS = 100_000


@register("webdataset")
@dataclass(frozen=True, kw_only=True)
class WebDataset(FramedImages):
    """Tar files whose members come in groups of one name: `0001.jpg`, `0001.cls`, ...: the layout of WebDataset.

    An image is a member with the suffix of a format that Pillow decodes; its class is in the member `.cls` of the same
    name, or in a field of `.json`. Local shards are indexed once (their members' names and places) and then read by
    index, like a folder; with `streaming` they are read once, in order, from anywhere that fsspec can read.

    Shapes: pixels [n, channels, size, size].

    Source: the layout is that of https://github.com/webdataset/webdataset.
    """

    shards: str
    "tar files: a path with {0000..0009}, {a,b}, * or ?; relative to --data-dir, where that is given"
    test_shards: str | None = None
    "those of the test split; by default a share of each class of `shards` is kept for it"
    label: str = "cls"
    "suffix of the member that holds the class; json:FIELD for a field of the .json member"
    class_names: tuple[str, ...] = ()
    "names of the classes, where labels are their numbers"
    streaming: bool = False
    "read in order, without an index: for shards that are not on this machine; test_shards is the test split then"
    most: int | None = None
    "streaming: at most so many images"
    test_share: float = 0.2
    "share of each class that is kept for the test split"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_test_share(self.test_share)

    def located(self) -> "WebDataset":
        """With the shards' folder in full; relative to --data-dir they stay as they are."""
        return dataclasses.replace(
            self,
            shards=_in_full(self.shards),
            test_shards=None if self.test_shards is None else _in_full(self.test_shards),
        )

    def load(self, split: Split, data_dir: Path | None = None) -> Dataset:
        """Read one split.

        Args:
            split: train or test.
            data_dir: the folder that relative shards lie in.

        Raises:
            InputError: a shard is missing, truncated or no tar file, an image has no label while others have, or no
                image is there.
        """
        asked = self.test_shards if split == "test" and self.test_shards is not None else self.shards
        places = expand(asked, data_dir)
        framing = self.framing()
        if self.streaming:
            if split == "test" and self.test_shards is None:
                raise InputError("a stream has no split of its own: name the shards of the test split, test_shards")
            return self._streamed(places, framing)
        files = TarImages.index([Path(place) for place in places], self.label, list(self.class_names))
        if self.test_shards is None:
            train, test = stratified_split(files.labels, self.test_share)
            files = files.select(train if split == "train" else test)
        if not len(files):
            raise InputError(f"{asked}: there is no image for the {split} split")
        return decoded(files, framing, self.channels, self.on_broken)[0]

    def _streamed(self, places: list[str], framing: Framing) -> StreamedImages:
        names = list(self.class_names) or ["image"]

        def source() -> Iterator[Encoded]:
            for place in places:
                yield from _read_in_order(place, self.label, list(self.class_names))

        identity = hashlib.blake2b(f"{self} {places} {[_stamp(place) for place in places]}".encode(), digest_size=8)
        return StreamedImages(
            source,
            framing,
            self.channels,
            names,
            name=identity.hexdigest(),
            where=self.shards,
            most=self.most,
            skip_broken=self.on_broken == "skip",
        )


def _in_full(pattern: str) -> str:
    """The pattern from the root on, where it stands for files seen from the current folder."""
    if "://" in pattern:
        return pattern
    try:
        is_here = Path(expand(pattern)[0]).is_file()
    except InputError:
        return pattern
    return str(Path(pattern).expanduser().absolute()) if is_here else pattern


def expand(pattern: str, folder: Path | None = None) -> list[str]:
    """Paths that a pattern stands for: `{00..12}` counts with as many digits, `{a,b}` chooses, `*` and `?` are globs.

    Raises:
        InputError: it stands for nothing, or for very many.
    """
    parts: list[list[str]] = []
    count = 1
    for text in re.split(r"(\{[^{}]*\})", pattern):
        ends = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", text)
        if ends:
            low, high = int(ends[1]), int(ends[2])
            number = abs(high - low) + 1
            options = [] if number > _MOST_SHARDS else [str(n).zfill(len(ends[1])) for n in range(low, high + 1)]
        else:
            options = text[1:-1].split(",") if text.startswith("{") and "," in text else [text]
            number = len(options)
        count *= number
        parts.append(options)
    if count > _MOST_SHARDS or not all(parts):
        raise InputError(f"{pattern} stands for {count:,} shards; count upwards, and to {_MOST_SHARDS:,} at most")
    found: list[str] = []
    for place in map("".join, itertools.product(*parts)):
        if "://" in place:
            found.append(place)
            continue
        path = Path(place).expanduser()
        path = folder.expanduser() / path if folder is not None and not path.is_absolute() else path
        matches = sorted(glob.glob(str(path))) if any(sign in place for sign in "*?[") else [str(path)]  # noqa: PTH207
        found.extend(matches)
    if not found:
        raise InputError(f"{pattern} stands for no file that is there")
    return found


class TarImages(ImageSources):
    """Images in tar files, by the place of their bytes.

    Attributes:
        shards: the tar files.
        shard: number of the one that holds each image.
        start: its first byte there.
        length: its bytes.
        names: its member's name.
    """

    def __init__(
        self,
        shards: list[Path],
        shard: Int64[np.ndarray, " n"],
        start: Int64[np.ndarray, " n"],
        length: Int64[np.ndarray, " n"],
        names: list[str],
        labels: Int64[np.ndarray, " n"],
        class_names: list[str],
    ) -> None:
        self.shards, self.shard, self.start, self.length, self.names = shards, shard, start, length, names
        self.labels, self.class_names = labels, class_names

    @staticmethod
    def index(shards: Sequence[Path], label: str, class_names: list[str]) -> "TarImages":
        """All images of shards in their order; only names, places and labels are read.

        Raises:
            InputError: a shard is missing, truncated or no tar file; or labels are missing or not as they should be.
        """
        places: list[tuple[int, int, int, str]] = []
        words: list[str | None] = []
        with progress("Indexing shards", total=len(shards), unit="shards") as bar:
            for number, path in enumerate(shards):
                for member, word in _members(path, label):
                    places.append((number, member.offset_data, member.size, member.name))
                    words.append(word)
                bar.advance(1)
        if not places:
            raise InputError(f"{shards[0]}{' and others' * (len(shards) > 1)}: no image in them")
        labels, names = _numbered(words, class_names, str(shards[0]), label)
        at = np.asarray([place[:3] for place in places], np.int64)
        return TarImages(list(shards), at[:, 0], at[:, 1], at[:, 2], [place[3] for place in places], labels, names)

    @property
    def where(self) -> str:
        """The first of the shards."""
        return str(self.shards[0]) + (f" and {len(self.shards) - 1:,} more" if len(self.shards) > 1 else "")

    def name(self, row: int) -> str:
        """The shard and the member."""
        return f"{self.shards[self.shard[row]]}: {self.names[row]}"

    def content(self, row: int) -> Path | BytesIO:
        """The bytes of one image."""
        with self.shards[self.shard[row]].open("rb") as file:
            file.seek(int(self.start[row]))
            return BytesIO(file.read(int(self.length[row])))

    def select(self, rows: Int64[np.ndarray, " m"]) -> "TarImages":
        """Only these, in this order."""
        names = [self.names[row] for row in rows]
        places = (self.shard[rows], self.start[rows], self.length[rows])
        return TarImages(self.shards, *places, names, self.labels[rows], self.class_names)

    def stamp(self) -> str:
        """Fingerprint of the shards' sizes and times of change, and of the places of the images."""
        digest = hashlib.blake2b(digest_size=8)
        for path in self.shards:
            digest.update(f"{path.name}\0{_stamp(str(path))}\0".encode())
        for values in (self.shard, self.start, self.length, self.labels):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def _stamp(place: str) -> str:
    if "://" in place:
        return place
    try:
        stat = Path(place).stat()
    except OSError:
        return place
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _members(path: Path, label: str) -> Iterator[tuple[tarfile.TarInfo, str | None]]:
    """Members that are images, with what is said of their class, in the order of the first member of each group."""
    if not path.is_file():
        raise InputError(f"the shard {path} does not exist")
    suffix, _, field = label.partition(":")
    try:
        with tarfile.open(path, "r:") as archive:
            for group in _groups(archive):
                image = _image_of(group)
                if image is None:
                    continue
                said = group.get(suffix)
                file = archive.extractfile(said) if said is not None else None
                yield image, None if file is None else _class_word(file.read(), field, f"{path}: {image.name}")
            size = path.stat().st_size
            if any(member.offset_data + member.size > size for member in archive.getmembers()[-1:]):
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the shard {path} is truncated or no plain tar file ({error}); fetch it again") from None


def _groups(archive: tarfile.TarFile) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Consecutive members of one name, by suffix."""
    for _, group in itertools.groupby((one for one in archive if one.isfile()), key=lambda one: _key(one.name)[0]):
        yield {_key(one.name)[1]: one for one in group}


def _key(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and what comes behind it."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _image_of(group: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    suffixes = image_suffixes()
    return next((one for suffix, one in group.items() if f".{suffix.rpartition('.')[2]}" in suffixes), None)


def _class_word(content: bytes, field: str, where: str) -> str:
    try:
        text = content.decode("utf-8").strip()
        value = json.loads(text)[field] if field else text
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: its label cannot be read ({type(error).__name__}: {error})") from None
    return str(value)


def _numbered(
    words: Sequence[str | None], names: list[str], where: str, label: str
) -> tuple[Int64[np.ndarray, " n"], list[str]]:
    """Labels as numbers, and the names of the classes."""
    missing = sum(word is None for word in words)
    if missing == len(words):
        return np.zeros(len(words), np.int64), names or ["image"]
    if missing:
        raise InputError(
            f"{missing:,} of {len(words):,} images of {where} ... have no {label}; give the right --data.label"
        )
    if names:
        return np.asarray([_number(str(word), names, where) for word in words], np.int64), names
    known = sorted(set(map(str, words)))
    if all(word.isdecimal() for word in known):
        numbers = np.asarray([int(str(word)) for word in words], np.int64)
        if numbers.max() < max(10 * len(known), 1000):
            return numbers, [str(number) for number in range(int(numbers.max()) + 1)]
        known.sort(key=int)
    place = {word: number for number, word in enumerate(known)}
    return np.asarray([place[str(word)] for word in words], np.int64), known


def _number(word: str, names: list[str], where: str) -> int:
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise InputError(f"{where}: the label {word!r} is none of the {len(names)} class_names, nor the number of one")


def _opened(place: str) -> Any:
    if "://" not in place:
        return Path(place).open("rb")
    return needs("fsspec", extra="remote", what=f"the shard {place}").open(place, "rb")


def _read_in_order(place: str, label: str, names: list[str]) -> Iterator[Encoded]:
    suffix, _, field = label.partition(":")
    try:
        with _opened(place) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            read = ((one, archive.extractfile(one)) for one in archive if one.isfile())
            contents = ((one.name, b"" if inside is None else inside.read()) for one, inside in read)
            for _, group in itertools.groupby(contents, key=lambda one: _key(one[0])[0]):
                members = {_key(name)[1]: (name, content) for name, content in group}
                image = next((m for s, m in members.items() if f".{s.rpartition('.')[2]}" in image_suffixes()), None)
                if image is None:
                    continue
                number = 0
                if names and suffix in members:
                    word = _class_word(members[suffix][1], field, f"{place}: {image[0]}")
                    number = _number(word, names, place)
                yield Encoded(f"{place}: {image[0]}", image[1], number)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"the shard {place} is missing, truncated or no tar file ({error}); fetch it again") from None
