"""Drafts that are taken over, and the notes that say what is whole in them."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unweave.store import drafts, unfinished
from unweave.store.artifact import FileEntry
from unweave.store.drafts import UNFINISHED, new_draft
from unweave.store.pieces import Piece, ShardSums, from_note, read_notes, to_note, write_note
from unweave.store.unfinished import UnfinishedDraft


def _begun(place: Path, capture: str = "this") -> UnfinishedDraft:
    draft = UnfinishedDraft(new_draft(place), place, capture)
    draft.begin()
    return draft


def _left(place: Path, capture: str = "this", files: int = 2) -> None:
    draft = _begun(place, capture)
    for number in range(files):
        (draft.folder / f"file-{number}").write_bytes(b"%d" % number * 10)
        draft.keep(Piece(name=f"file-{number}", first=2 * number, rows=(3, 4)))
    (draft.folder / "half").write_bytes(b"half")
    draft.end()


def _elsewhere(place: Path) -> Path:
    """Let what is left come from a process of another host."""
    (left,) = drafts.unfinished_beside(place)
    theirs = left.with_name(f".{place.name}.writing-000000-000000-000000-12-0")
    left.rename(theirs)
    return theirs


def test_what_is_whole_is_taken_over_and_nothing_else(tmp_path: Path) -> None:
    _left(tmp_path / "a")
    draft = _begun(tmp_path / "a")
    assert [(piece.name, piece.first, piece.stop) for piece in draft.pieces] == [("file-0", 0, 2), ("file-1", 2, 4)]
    assert sorted(draft.files()) == ["file-0", "file-1"]
    draft.finish()
    assert [path.name for path in sorted(draft.folder.iterdir())] == ["file-0", "file-1"]
    draft.end()
    assert not list(tmp_path.iterdir())


def test_of_two_the_fuller_one_is_taken_over(tmp_path: Path) -> None:
    draft = _begun(tmp_path / "a")
    _left(tmp_path / "a", files=3)
    _left(tmp_path / "a", "other")
    draft.end()
    _left(tmp_path / "b")
    taken = _begun(tmp_path / "a")
    assert len(taken.pieces) == 3
    taken.end()
    assert len(list(tmp_path.iterdir())) == 3, "those of another capture, and of another place, wait"


def test_two_that_begin_at_once_never_share_one(tmp_path: Path) -> None:
    _left(tmp_path / "a")
    first, second = _begun(tmp_path / "a"), _begun(tmp_path / "a")
    assert (len(first.pieces), len(second.pieces)) == (2, 0)
    assert first.folder != second.folder


def test_what_was_cut_short_elsewhere_a_moment_ago_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(unfinished, "_LOOK_SECONDS", 0.05)
    _left(tmp_path / "a")
    _elsewhere(tmp_path / "a")
    assert len(_begun(tmp_path / "a").pieces) == 2


def test_what_is_under_way_elsewhere_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "_LOOK_SECONDS", 0.02)
    _left(tmp_path / "a")
    theirs = _elsewhere(tmp_path / "a")

    def lives() -> None:
        time.sleep(0.1)
        (theirs / UNFINISHED / unfinished.CAPTURE).touch()

    threading.Thread(target=lives).start()
    draft = _begun(tmp_path / "a")
    assert not draft.pieces
    assert theirs.exists()


def test_one_that_is_taken_over_seems_left_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _left(tmp_path / "a")
    (old,) = drafts.unfinished_beside(tmp_path / "a")
    for path in (old, *old.rglob("*")):
        os.utime(path, (0, 0))
    taken = _begun(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(drafts, "_here", lambda: ("another", "host", "now"))
        assert not drafts.unfinished_beside(tmp_path / "a")
    assert len(taken.pieces) == 2
    taken.end()


def test_a_draft_shows_that_it_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "BEAT_SECONDS", 0.01)
    draft = _begun(tmp_path / "a")
    head = draft.folder / UNFINISHED / unfinished.CAPTURE
    before = head.stat().st_mtime_ns
    while head.stat().st_mtime_ns == before:
        time.sleep(0.01)
    draft.end()


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.floats(0, 1e300),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_a_note_keeps_every_bit(sums: list[float], spread: float, rows: list[int]) -> None:
    total = torch.tensor(sums, dtype=torch.float64)
    piece = Piece(
        name="a/b",
        first=7,
        rows=tuple(rows),
        sums=ShardSums(sum(rows), total, spread),
        file=FileEntry(size=3, crc32=4),
        facts={"layout": None, "drawn": {"first": 1.5}},
    )
    read = from_note(to_note(piece))
    assert read is not None
    assert read.sums is not None
    assert torch.equal(read.sums.sum.view(torch.int64), total.view(torch.int64))
    assert (read.sums.n, read.sums.spread) == (sum(rows), spread)
    assert (read.name, read.first, read.stop, read.rows) == ("a/b", 7, 7 + len(rows), tuple(rows))
    assert (read.file, read.facts) == (piece.file, piece.facts)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_note_that_was_cut_or_changed_is_none(place: int, change: int) -> None:
    text = bytearray(to_note(Piece(name="a", first=0, rows=(1, 2), file=FileEntry(size=1, crc32=2))).encode())
    assert from_note(bytes(text[: place % len(text)])) is None
    text[place % len(text)] ^= change
    changed = from_note(bytes(text))
    assert changed is None or changed.rows == (1, 2), "only what stands between the values can change unseen"


def test_no_note_of_nothing(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"[]", b"{}", b"null", b'{"checksum": 1}', b"\xff")):
        (tmp_path / f"{number}.json").write_bytes(content)
    (tmp_path / "9.json.half").touch()
    write_note(tmp_path, Piece(name="a", first=0, rows=(0,)))
    assert [piece.rows for piece in read_notes(tmp_path)] == [(0,)]
    assert len(list(tmp_path.iterdir())) == 1
