import errno
import os
from pathlib import Path

import pytest

from unweave.core.errors import StoreError
from unweave.store import drafts
from unweave.store.artifact import read_json, write_json
from unweave.store.drafts import (
    UNFINISHED,
    disk_errors,
    forget,
    is_draft,
    left_beside,
    let_go,
    new_draft,
    perhaps_unfinished,
    replacing,
    unfinished_beside,
)


def _name_of(tmp_path: Path, **parts: str) -> Path:
    """A draft of `a` by another process: any part of its name replaced."""
    host, boot, space = drafts._here()
    named = {"host": host, "boot": boot, "space": space, "pid": "4194304", "number": "0", **parts}  # above any real pid
    path = tmp_path / f".a.writing-{'-'.join(named.values())}"
    path.touch()
    return path


def test_a_live_draft_is_nobodys_to_sweep(tmp_path: Path) -> None:
    mine = new_draft(tmp_path / "a")
    mine.touch()
    theirs = _name_of(tmp_path, pid=str(os.getppid()))
    assert left_beside(tmp_path / "a") == []
    forget(mine)
    assert not mine.exists()
    assert theirs.exists()


def test_two_drafts_of_one_process_have_names_of_their_own(tmp_path: Path) -> None:
    one, other = new_draft(tmp_path / "a"), new_draft(tmp_path / "a")
    assert one != other
    assert is_draft(one)
    assert is_draft(one, of="a")
    assert not is_draft(one, of="b")
    assert not is_draft(tmp_path / ".a.checkpoint.safetensors")


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    dead = _name_of(tmp_path)
    before_this_boot = _name_of(tmp_path, boot="000000", pid=str(os.getpid()))
    of_this_number = _name_of(tmp_path, pid=str(os.getpid()), number="999999")  # numbers of processes come again
    assert set(left_beside(tmp_path / "a")) == {dead, before_this_boot, of_this_number}


@pytest.mark.parametrize("where", [{"host": "000000"}, {"space": "000000"}, {"host": "000000", "boot": "000000"}])
def test_a_draft_from_elsewhere_is_left_for_a_day(tmp_path: Path, where: dict[str, str]) -> None:
    theirs = _name_of(tmp_path, **where)
    assert left_beside(tmp_path / "a") == []
    os.utime(theirs, (0, theirs.stat().st_mtime - 90_000))
    assert left_beside(tmp_path / "a") == [theirs]


def test_a_clock_that_went_back_sweeps_nothing_of_elsewhere(tmp_path: Path) -> None:
    theirs = _name_of(tmp_path, host="000000")
    os.utime(theirs, (0, theirs.stat().st_mtime + 90_000))
    assert left_beside(tmp_path / "a") == []


def test_an_old_name_is_swept_after_a_day(tmp_path: Path) -> None:
    old = tmp_path / ".a.writing-123"
    old.touch()
    assert left_beside(tmp_path / "a") == []
    os.utime(old, (0, 0))
    assert left_beside(tmp_path / "a") == [old]


def _unfinished(draft: Path) -> Path:
    draft.unlink(missing_ok=True)
    (draft / UNFINISHED).mkdir(parents=True)
    return draft


def _age(draft: Path, seconds: float) -> None:
    for path in (draft, *draft.rglob("*")):
        os.utime(path, (0, path.stat().st_mtime - seconds))


def test_unfinished_work_is_kept_a_week_for_whoever_goes_on_with_it(tmp_path: Path) -> None:
    dead = _unfinished(_name_of(tmp_path))
    assert (left_beside(tmp_path / "a"), unfinished_beside(tmp_path / "a")) == ([], [dead])
    _age(dead, 6 * 86_400)
    assert left_beside(tmp_path / "a") == []
    _age(dead, 2 * 86_400)
    assert left_beside(tmp_path / "a") == [dead]


def test_a_live_process_can_let_unfinished_work_go(tmp_path: Path) -> None:
    mine = _unfinished(new_draft(tmp_path / "a"))
    assert unfinished_beside(tmp_path / "a") == []
    let_go(mine)
    assert not mine.exists()
    (left,) = unfinished_beside(tmp_path / "a")
    assert is_draft(left, of="a")
    assert left_beside(tmp_path / "a") == []


def test_unfinished_work_from_elsewhere_that_is_silent_for_two_minutes_is_left(tmp_path: Path) -> None:
    theirs = _unfinished(_name_of(tmp_path, host="000000"))
    assert (unfinished_beside(tmp_path / "a"), perhaps_unfinished(tmp_path / "a")) == ([], [theirs])
    _age(theirs, 130)
    assert (unfinished_beside(tmp_path / "a"), perhaps_unfinished(tmp_path / "a")) == ([theirs], [])


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_only_the_first_writes_what_must_be_new(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1}, new=True)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", {"n": 2}, new=True)
    assert read_json(tmp_path / "a.json") == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"a cannot be written: No space left.*make room and start again"),
        disk_errors(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_of_another_place_is_not_said_to_be_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path / "a"):
        (tmp_path.parent / "not there").read_text()
    with pytest.raises(ConnectionResetError), disk_errors(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "gone")


def test_sealed_json_notices_every_change(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1.0, "words": ["a", None], "nothing": float("nan")}, sealed=True)
    assert read_json(path) == {"n": 1.0, "words": ["a", None], "nothing": None}
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(StoreError, match=r"a\.json was changed or damaged"):
        read_json(path)


def test_json_of_others_may_have_a_checksum_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"checksum": "abc", "n": 1}')
    assert read_json(tmp_path / "a.json") == {"checksum": "abc", "n": 1}
