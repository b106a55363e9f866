"""Captures that were cut short: the next one of the very same kind takes over their draft, and goes on.

Such a draft has a folder `unfinished`: `capture` says what is captured, and a note stands for each file that is whole.
Whoever takes a draft over renames it first, so that two never work on one. Whatever has no note, or does not have the
checksum that its note gives, is removed and made again.
"""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from unweave.core.hashing import crc32_of_file
from unweave.core.progress import progress, say
from unweave.store.artifact import Draft, FileEntry, file_entry
from unweave.store.drafts import BEAT_SECONDS, UNFINISHED, forget, let_go, perhaps_unfinished, remove, unfinished_beside
from unweave.store.pieces import Piece, read_notes, write_note

CAPTURE = "capture"
_READERS = 4
_LOOK_SECONDS = 1.0


class UnfinishedDraft(Draft):
    """A draft that can be gone on with.

    Args:
        folder: where it is written.
        place: where it goes.
        capture: fingerprint of everything that decides its files, and where they begin and end.

    Attributes:
        pieces: what was found whole, in the order of its batches; none where it is begun anew.
        damaged: how many files were there and not whole.
    """

    def __init__(self, folder: Path, place: Path, capture: str) -> None:
        super().__init__(folder)
        self._place, self._capture = place, capture
        self._stop = threading.Event()
        self.pieces: list[Piece] = []
        self.damaged = 0

    @property
    def _notes(self) -> Path:
        return self.folder / UNFINISHED

    def begin(self) -> None:
        """Take over the draft of the same capture that holds most, or make a folder."""
        if not self._taken_over():
            self.folder.mkdir()
            self._notes.mkdir()
            (self._notes / CAPTURE).write_text(self._capture)
        threading.Thread(target=self._beat, daemon=True, name="draft").start()
        self._check()

    def keep(self, piece: Piece) -> None:
        """Say that a piece's file is whole, and will not change any more."""
        path = self.folder / piece.name
        self.settle(path)
        write_note(self._notes, replace(piece, file=self._settled[path][1]))

    def reduce_to(self, pieces: Sequence[Piece]) -> None:
        """Keep only these pieces of those that were found; what was made since goes too."""
        self.pieces = list(pieces)
        stays = {piece.note for piece in pieces}
        gone = [note for note in self._notes.glob("*.json") if note.name not in stays]
        for note in gone:
            note.unlink(missing_ok=True)
        if gone:
            self._clear()

    def finish(self) -> None:
        """Remove the notes."""
        remove(self._notes)

    def end(self) -> None:
        """Where it was not finished, leave what is whole to the next one."""
        self._stop.set()
        if self._notes.is_dir() and any(self._notes.glob("*.json")):
            with suppress(OSError):
                self._clear()
            let_go(self.folder)
        else:
            forget(self.folder)

    def _content(self) -> list[Path]:
        return [path for path in super()._content() if path.parent != self._notes]

    def _wait_for_others(self) -> None:
        """See whether the same capture is under way elsewhere, or has been cut short there a moment ago."""
        beats = {draft: _beat_of(draft) for draft in perhaps_unfinished(self._place)}
        waited = False
        while any(_capture_of(draft) == self._capture and _beat_of(draft) == beats[draft] for draft in beats):
            if not waited:
                say("The same capture was under way elsewhere until now: waiting to see whether it still is")
            time.sleep(_LOOK_SECONDS)
            waited, beats = True, {draft: beats[draft] for draft in perhaps_unfinished(self._place) if draft in beats}

    def _taken_over(self) -> bool:
        self._wait_for_others()
        left = {draft: _notes_in(draft) for draft in unfinished_beside(self._place)}
        taken = False
        for draft in sorted(left, key=lambda draft: left[draft], reverse=True):
            if left[draft] and _capture_of(draft) != self._capture:
                continue  # of another capture, which may go on one day
            if left[draft] and not taken:
                with suppress(OSError):  # another process was first
                    os.utime(draft / UNFINISHED / CAPTURE)  # or it would seem left under its new name too
                    draft.rename(self.folder)
                    taken = True
            else:
                remove(draft)
        return taken

    def _check(self) -> None:
        """Find the whole pieces, and remove all else."""
        found = [piece for piece in read_notes(self._notes) if piece.file is not None or not any(piece.rows)]
        total = sum(piece.file.size for piece in found if piece.file is not None)
        if found:
            pool = ThreadPoolExecutor(_READERS, thread_name_prefix="check")
            with pool, progress("Checking what was captured before", total=total, unit="bytes") as bar:
                for piece, whole in zip(found, pool.map(self._is_whole, found), strict=True):
                    bar.advance(piece.file.size if piece.file is not None else 0)
                    if whole:
                        self.pieces.append(piece)
        self.damaged = len(found) - len(self.pieces)
        for piece in set(found).difference(self.pieces):
            (self._notes / piece.note).unlink(missing_ok=True)
        self._clear()
        for piece in self.pieces:
            if piece.file is not None:
                self.take(self.folder / piece.name, piece.file)

    def _is_whole(self, piece: Piece) -> bool:
        path = self.folder / piece.name
        if piece.file is None:
            return True
        try:
            return path.stat().st_size == piece.file.size and crc32_of_file(path) == piece.file.crc32
        except OSError:
            return False

    def _clear(self) -> None:
        """Remove every file that no note tells of."""
        named = {self.folder / piece.name for piece in read_notes(self._notes)}
        for path in self._content():
            if path not in named:
                path.unlink()

    def _beat(self) -> None:
        """Show those who cannot see this process that it lives."""
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._notes / CAPTURE)


def note_of(folder: Path, piece: Piece, entry: FileEntry | None = None) -> FileEntry | None:
    """Write the note of a piece into the draft of another process; gives size and checksum of its file."""
    if any(piece.rows):
        entry = file_entry(folder / piece.name) if entry is None else entry
    write_note(folder / UNFINISHED, replace(piece, file=entry))
    return entry


def _notes_in(draft: Path) -> int:
    return sum(1 for _ in (draft / UNFINISHED).glob("*.json"))


def _beat_of(draft: Path) -> int:
    """When its process last showed that it lives."""
    with suppress(OSError):
        return (draft / UNFINISHED / CAPTURE).stat().st_mtime_ns
    return 0


def _capture_of(draft: Path) -> str:
    with suppress(OSError):
        return (draft / UNFINISHED / CAPTURE).read_text()
    return ""
