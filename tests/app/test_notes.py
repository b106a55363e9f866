"""Names and notes stay in the run's folder."""

import json
from pathlib import Path

import pytest

from unweave.app.notes import NOTES, Note, Notes
from unweave.core.errors import InputError, StoreError


def test_notes_come_back(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert notes.of("atlas", 3) == Note()
    notes.write("atlas", 3, Note(name="loops", text="closed\nloops"))
    notes.write("atlas@pca", 3, Note(name="other"))
    notes.write("atlas", 20, Note(text="?"))
    assert Notes(tmp_path).all("atlas") == {3: Note(name="loops", text="closed\nloops"), 20: Note(text="?")}
    notes.write("atlas", 3, Note())
    assert list(notes.all("atlas")) == [20]
    assert notes.of("atlas@pca", 3).name == "other"


def test_what_is_too_long_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.write("atlas", 1, Note(name="kept"))
    with pytest.raises(InputError, match="80 letters"):
        notes.write("atlas", 1, Note(name="x" * 81))
    assert notes.of("atlas", 1).name == "kept"


@pytest.mark.parametrize("text", ["[]", "{", '{"atlas": 3}', '{"atlas": {"x": {}}}'])
def test_a_damaged_file_is_named_and_left(tmp_path: Path, text: str) -> None:
    (tmp_path / NOTES).write_text(text)
    with pytest.raises(StoreError, match=NOTES):
        Notes(tmp_path).all("atlas")
    with pytest.raises(StoreError):
        Notes(tmp_path).write("atlas", 1, Note(name="x"))
    assert (tmp_path / NOTES).read_text() == text


def test_it_is_plain_json(tmp_path: Path) -> None:
    Notes(tmp_path).write("atlas", 7, Note(name="ears"))
    assert json.loads((tmp_path / NOTES).read_text()) == {"atlas": {"7": {"name": "ears", "text": ""}}}
