import sqlite3
from pathlib import Path

import pytest

from unweave.core.errors import InputError
from unweave.store.artifact import MANIFEST, Identity, writing
from unweave.store.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two artifacts, a database, and files of somebody else's."""
    for name in ("a", "deep/b"):
        with writing(tmp_path / name, Identity(kind="thing", config={"name": name})) as draft:
            (draft.folder / "one").write_text("1" * 1000)
            (draft.folder / "two").write_text("2")
    with sqlite3.connect(tmp_path / "ratings.sqlite") as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(2000)])
    connection.close()
    (tmp_path / "theirs.json").write_text('{"files": ["a", "b"]}')
    return tmp_path


def test_what_is_whole_is_counted(folder: Path) -> None:
    found = verify(folder)
    assert (found.artifacts, found.files, found.damaged, found.left) == (2, 8, [], [])
    assert str(found).startswith("2 artifacts, 8 files, ")
    assert str(found).endswith("as they were written")


def test_every_damage_is_a_line(folder: Path) -> None:
    (folder / "a" / "one").write_text("1" * 999 + "0")
    (folder / "a" / "two").unlink()
    (folder / "deep/b" / MANIFEST).write_text("{")
    with (folder / "ratings.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    found = verify(folder)
    assert [line.partition(" ")[0] for line in sorted(found.damaged)] == [
        str(folder / name) for name in ("a/one", "a/two", "deep/b/manifest.json", "ratings.sqlite")
    ]


def test_a_draft_is_named_and_not_looked_through(folder: Path) -> None:
    (folder / ".a.writing-x").mkdir()
    (folder / ".a.writing-x" / MANIFEST).write_text("{")
    found = verify(folder)
    assert (found.damaged, found.left) == ([], [folder / ".a.writing-x"])


def test_where_there_is_nothing_to_verify_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of Unweave's"):
        verify(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        verify(tmp_path / "missing")
