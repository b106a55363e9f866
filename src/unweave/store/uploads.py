"""Writing an activation store where it is to be: in a folder, or at a URL.

An object store has no folders and no rename: the manifest makes a store whole, and is written last. Shards are uploaded
as capture finishes them, each with a note after it, and do not stay on this machine. A store that replaces another one
has its files in a folder with a name that no store there had before, so that the old one is whole until the manifest
is exchanged; then its files go.
"""

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from unweave.core.config import fingerprint, to_json
from unweave.core.errors import InputError, StoreError
from unweave.store.activation_writer import in_order
from unweave.store.artifact import (
    MANIFEST,
    Draft,
    FileEntry,
    Identity,
    Manifest,
    existing,
    file_entry,
    manifest_of,
    write_json,
    writing,
)
from unweave.store.drafts import UNFINISHED
from unweave.store.pieces import Piece, from_note, to_note
from unweave.store.remote import RemoteFolder, all_at_once
from unweave.store.scratch import Scratch
from unweave.store.shards import FOLDER, INSIDE, MOMENTS, inside
from unweave.store.unfinished import CAPTURE, UnfinishedDraft

_UPLOADS = 2
_OURS = re.compile(rf"({FOLDER})?(shard-\d+\.safetensors|{re.escape(MOMENTS)}|{UNFINISHED}/({CAPTURE}|\d+-\d+\.json))")


class UploadedDraft(Draft):
    """A draft whose files go to a URL: `keep` uploads in the background and removes the file here.

    Args:
        folder: on this machine, for what is not uploaded yet.
        to: the place.
        within: what comes before the names of its files there.
        capture: fingerprint of everything that decides its files, and where they begin and end.

    Attributes:
        pieces: the shards that an earlier capture of the same kind has left there, from the first on.
        damaged: how many others it has left.
    """

    def __init__(self, folder: Path, to: RemoteFolder, within: str, capture: str) -> None:
        super().__init__(folder)
        self.pieces: list[Piece] = []
        self.damaged = 0
        self._to, self._within, self._capture = to, within, capture
        self._entries: dict[str, FileEntry] = {}
        self._noted: list[Piece] = []
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._under_way: deque[Future[None]] = deque()

    def take_over(self, sizes: Mapping[str, int]) -> set[str]:
        """Find what can be gone on with among the objects; returns the names of all that stays."""
        head, notes = self._note(CAPTURE), self._note("")
        if head not in sizes or self._to.read(head, 0, sizes[head]).decode(errors="replace") != self._capture:
            return set()
        told = [name for name in sorted(sizes) if name.startswith(notes) and name != head]
        read = all_at_once([(self._to.read, (name, 0, sizes[name])) for name in told])
        found = [piece for piece in map(from_note, read) if piece is not None and piece.file is not None]
        whole = [piece for piece in found if piece.file and sizes.get(self._within + piece.name) == piece.file.size]
        self.pieces = in_order(whole)
        self.damaged = len(told) - len(whole)
        for piece in self.pieces:
            assert piece.file is not None
            self._entries[piece.name] = piece.file
        self._noted = list(self.pieces)
        return {head, *(self._within + piece.name for piece in self.pieces), *map(self._note_of, self.pieces)}

    def begin(self) -> None:
        """Say what is captured there."""
        self._to.write(self._note(CAPTURE), self._capture.encode())

    def reduce_to(self, pieces: Sequence[Piece]) -> None:
        """Keep only these pieces of those that were found, up to the first gap; what was made since goes too."""
        while self._under_way:
            self._under_way.popleft().result()
        self.pieces = in_order(pieces)
        stays = {piece.name for piece in self.pieces}
        gone = [piece for piece in self._noted if piece.name not in stays]
        self._to.remove(list(map(self._note_of, gone)))
        self._to.remove([self._within + piece.name for piece in gone])
        self._noted = list(self.pieces)
        for piece in gone:
            del self._entries[piece.name]

    def keep(self, piece: Piece) -> None:
        """Upload a piece that is whole, and the note of it; waits where uploads do not keep up.

        Raises:
            StoreError: an earlier one failed.
        """
        self._submit(self.folder / piece.name, piece)

    def settle(self, path: Path) -> None:
        """Upload a file that will not change any more.

        Raises:
            StoreError: an earlier one failed.
        """
        self._submit(path, None)

    def files(self) -> dict[str, FileEntry]:
        """Upload what is left, wait for all of it, and give every file's checksum."""
        for path in self._content():
            if path.relative_to(self.folder).as_posix() not in self._entries:
                self.settle(path)
        while self._under_way:
            self._under_way.popleft().result()
        return {self._within + name: entry for name, entry in sorted(self._entries.items())}

    def end(self) -> None:
        """Wait for uploads, which the next capture goes on behind, and remove what nobody could go on with."""
        self._pool.shutdown()
        if not self._noted:
            with suppress(StoreError):
                self._to.remove([self._note(CAPTURE), *(self._within + name for name in self._entries)])

    def _submit(self, path: Path, piece: Piece | None) -> None:
        name = path.relative_to(self.folder).as_posix()
        entry = self._entries[name] = file_entry(path)
        noted = None if piece is None else replace(piece, file=entry)
        self._under_way.append(self._pool.submit(self._upload, path, name, noted))
        while len(self._under_way) > _UPLOADS or (self._under_way and self._under_way[0].done()):
            self._under_way.popleft().result()

    def _upload(self, path: Path, name: str, piece: Piece | None) -> None:
        self._to.put(path, self._within + name)
        path.unlink()
        if piece is not None:
            self._to.write(self._note_of(piece), to_note(piece).encode())
            self._noted.append(piece)

    def _note_of(self, piece: Piece) -> str:
        return self._note(piece.note)

    def _note(self, name: str) -> str:
        return f"{self._within}{UNFINISHED}/{name}"


CaptureDraft = UnfinishedDraft | UploadedDraft


def existing_at(place: Path | str, identity: Identity, *, overwrite: bool = False) -> bool:
    """Whether an artifact is already at a place: `artifact.existing`, or the same at a URL.

    Raises:
        InputError: something else stands in its place and `overwrite` is not set, or what stands there is neither an
            artifact nor what a capture that was cut short has left.
    """
    if isinstance(place, Path):
        return existing(place, identity, overwrite=overwrite)
    folder = RemoteFolder(place)
    sizes = folder.sizes()
    found = folder.manifest_in(sizes)
    if found is None:
        strange = sorted(name for name in sizes if not _OURS.fullmatch(name))
        if strange:
            raise InputError(f"{place} holds {strange[0]!r} and is no Unweave artifact; choose another place")
        return False
    if overwrite and found.kind == identity.kind:
        return False
    if found.id != identity.id:
        raise InputError(
            f"{place} holds another artifact of kind {found.kind!r}, made from other settings or inputs; choose "
            "another place or overwrite it"
        )
    folder.manifest(identity.kind)
    _tidy(folder, sizes, found)
    return True


def writing_at(
    place: Path | str, identity: Identity, *, capture: str, overwrite: bool = False
) -> AbstractContextManager[CaptureDraft]:
    """Write an artifact at a place, from where one that was cut short has ended.

    Args:
        place: a folder or a URL.
        identity: what is written.
        capture: fingerprint of everything that decides its files, and where they begin and end.
        overwrite: replace another artifact, once this one is whole.

    Raises:
        InputError: something else stands there and `overwrite` is not set.
        StoreError: the place cannot be written to, or others have removed files meanwhile.
    """
    if isinstance(place, Path):
        return _in_folder(place, identity, capture, overwrite)
    return _at_url(RemoteFolder(place), identity, capture, overwrite)


def has_artifact(place: Path | str) -> bool:
    """Whether there is a manifest at a place."""
    return (place / MANIFEST).is_file() if isinstance(place, Path) else MANIFEST in RemoteFolder(place).sizes()


@contextmanager
def _in_folder(place: Path, identity: Identity, capture: str, overwrite: bool) -> Iterator[UnfinishedDraft]:
    with writing(place, identity, overwrite=overwrite, draft=partial(UnfinishedDraft, capture=capture)) as draft:
        assert isinstance(draft, UnfinishedDraft)
        yield draft


@contextmanager
def _at_url(folder: RemoteFolder, identity: Identity, capture: str, overwrite: bool) -> Iterator[UploadedDraft]:
    existing_at(folder.url, identity, overwrite=overwrite)
    sizes = folder.sizes()
    present = folder.manifest_in(sizes)
    within = "" if present is None else _new_folder(present, capture, folder.url)
    started, scratch = time.monotonic(), Scratch()
    draft = UploadedDraft(scratch.path, folder, within, capture)
    staying = draft.take_over(sizes) | {MANIFEST, *(present.files if present is not None else ())}
    folder.remove([name for name in sizes if _OURS.fullmatch(name) and name not in staying])
    try:
        draft.begin()
        yield draft
        if within:
            draft.details[INSIDE] = within
        manifest = manifest_of(draft, identity, time.monotonic() - started)
        write_json(scratch.path / MANIFEST, to_json(manifest), sealed=True)
        _check_all_there(folder, manifest)
        folder.put(scratch.path / MANIFEST, MANIFEST)
    except BaseException:
        draft.end()
        raise
    with suppress(StoreError):  # the store is whole: what is left goes with the next write
        _tidy(folder, folder.sizes(), manifest)


def _new_folder(present: Manifest, capture: str, where: str) -> str:
    """The same for the same capture over the same store, and none that a store had before."""
    return fingerprint(capture, present.id, present.created, inside(present.details, where)) + "/"


def _check_all_there(folder: RemoteFolder, manifest: Manifest) -> None:
    sizes = folder.sizes()
    gone = [name for name, entry in manifest.files.items() if sizes.get(name) != entry.size]
    if gone:
        raise StoreError(
            f"{folder.url}/{gone[0]} was removed or replaced while it was captured; let one process write there, and "
            "start again (what was finished is kept)"
        )


def _tidy(folder: RemoteFolder, sizes: Mapping[str, int], manifest: Manifest) -> None:
    """Remove what a store that was replaced, or notes that are not needed any more, have left beside a whole one."""
    own = inside(manifest.details, folder.url)
    begun = {name.removesuffix(f"{UNFINISHED}/{CAPTURE}") for name in sizes if name.endswith(f"{UNFINISHED}/{CAPTURE}")}
    for name in sizes:
        match = _OURS.fullmatch(name)
        if match is not None and name not in manifest.files and (match[1] or "") not in begun - {own}:
            with suppress(StoreError):  # whoever only reads may not remove
                folder.remove([name])
