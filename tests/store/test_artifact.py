import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from unweave.core.errors import InputError, StoreError
from unweave.store.artifact import MANIFEST, Draft, Identity, existing, read_manifest, writing

FIRST = Identity(kind="thing", config={"a": 1}, inputs={"rows": "abc"}, seed=0)
OTHER = Identity(kind="thing", config={"a": 2}, inputs={"rows": "abc"}, seed=0)
FORK = multiprocessing.get_context("fork")


def _put(folder: Path, identity: Identity = FIRST, text: str = "content", **options: bool) -> None:
    with writing(folder, identity, **options) as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "file.txt").write_text(text)
        draft.details["n"] = 3


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _die(_: Path, __: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write_half(folder: Path, pipe: Connection) -> None:
    with writing(folder, OTHER, overwrite=True) as draft:
        (draft.folder / "half").write_text("half")
        pipe.send("inside")
        pipe.recv()


def _swap_half(folder: Path) -> None:
    with writing(folder, OTHER, overwrite=True) as draft:
        (draft.folder / "half").write_text("half")
        moved = Path.rename
        Path.rename = lambda self, to: (moved(self, to), _die(self, to))  # type: ignore[method-assign]


@contextmanager
def _live_writer(folder: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    here, there = FORK.Pipe()
    child = FORK.Process(target=_write_half, args=(folder, there))
    child.start()
    assert here.recv() == "inside"
    yield child, here
    child.join()


def _kill_while_writing(folder: Path) -> None:
    with _live_writer(folder) as (child, _):
        child.kill()
    assert child.exitcode == -signal.SIGKILL


def _kill_between_the_renames(folder: Path) -> None:
    child = FORK.Process(target=_swap_half, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_an_artifact_says_what_it_is_and_what_it_holds(tmp_path: Path) -> None:
    _put(tmp_path / "deep" / "a")
    manifest = read_manifest(tmp_path / "deep" / "a", "thing", verify=True)
    assert (manifest.kind, manifest.id, manifest.seed) == ("thing", FIRST.id, 0)
    assert (manifest.config, manifest.inputs, manifest.details) == ({"a": 1}, {"rows": "abc"}, {"n": 3})
    assert {name: entry.size for name, entry in manifest.files.items()} == {"sub/file.txt": 7}
    assert sorted(_bytes(tmp_path / "deep")) == ["a/manifest.json", "a/sub/file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with writing(tmp_path / "a", FIRST) as draft:
            (draft.folder / "x").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_block_that_fails_leaves_what_it_would_have_replaced(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    before = _bytes(tmp_path)
    with pytest.raises(TypeError), writing(tmp_path / "a", OTHER, overwrite=True) as draft:
        draft.details["n"] = object()  # not JSON
    assert _bytes(tmp_path) == before


@pytest.mark.parametrize("name", ["a", "run[1]*"])
def test_what_a_killed_process_left_is_swept_by_the_next_writer(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    _kill_while_writing(folder)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".{name}.writing-")
    assert not existing(folder, FIRST)
    _put(folder)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert existing(folder, FIRST)


def test_a_killed_process_leaves_what_it_would_have_replaced(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    before = _bytes(tmp_path / "a")
    _kill_while_writing(tmp_path / "a")
    assert _bytes(tmp_path / "a") == before


def test_a_process_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    before = _bytes(tmp_path / "a")
    _kill_between_the_renames(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert existing(tmp_path / "a", FIRST)
    assert _bytes(tmp_path / "a") == before


def test_a_killed_swap_does_not_let_another_artifact_in(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    _kill_between_the_renames(tmp_path / "a")
    with pytest.raises(InputError, match="other settings"):
        _put(tmp_path / "a", OTHER)
    assert read_manifest(tmp_path / "a", verify=True).id == FIRST.id


def test_the_draft_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    with _live_writer(tmp_path / "a") as (child, pipe):
        _put(tmp_path / "a")
        (draft,) = tmp_path.glob(f".a.writing-*-{child.pid}-*")
        assert (draft / "half").read_text() == "half"
        pipe.send("go on")
    assert child.exitcode == 0
    assert read_manifest(tmp_path / "a").id == OTHER.id  # it was told to overwrite


def test_neighbours_with_longer_names_are_not_swept(tmp_path: Path) -> None:
    (tmp_path / ".ab.writing-none").mkdir()
    _put(tmp_path / "a")
    assert (tmp_path / ".ab.writing-none").is_dir()


def test_the_same_artifact_is_there_and_another_one_is_refused_without_harm(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    before = _bytes(tmp_path)
    assert existing(tmp_path / "a", FIRST)
    assert not existing(tmp_path / "a", FIRST, overwrite=True)
    assert not existing(tmp_path / "a", OTHER, overwrite=True)
    another = Identity(kind="another", config={"a": 1})
    with pytest.raises(InputError, match="'thing', which one of kind 'another' does not replace"):
        existing(tmp_path / "a", another, overwrite=True)
    for wrong, said in ((OTHER, "overwrite"), (another, "does not replace")):
        with pytest.raises(InputError, match=said):
            existing(tmp_path / "a", wrong)
        with pytest.raises(InputError, match=said):
            _put(tmp_path / "a", wrong)
    assert _bytes(tmp_path) == before
    _put(tmp_path / "a", OTHER, "new", overwrite=True)
    assert read_manifest(tmp_path / "a").id == OTHER.id
    assert (tmp_path / "a" / "sub" / "file.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def _foreign_manifest(folder: Path) -> None:
    _foreign(folder)
    (folder / MANIFEST).write_text('{"name": "a web app", "icons": []}')


def _file(folder: Path) -> None:
    folder.write_text("years of work")


@pytest.mark.parametrize("make", [_foreign, _foreign_manifest, _file])
def test_what_is_not_ours_is_never_touched(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    before = _bytes(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=str(tmp_path / "a")):
            _put(tmp_path / "a", overwrite=overwrite)
    assert _bytes(tmp_path) == before


def test_what_came_there_meanwhile_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()  # empty: may be taken

    def meanwhile() -> None:
        with writing(tmp_path / "a", FIRST):
            (tmp_path / "a" / "notes").write_text("mine")

    with pytest.raises(InputError, match="is no Unweave artifact"):
        meanwhile()
    assert _bytes(tmp_path) == {"a/notes": b"mine"}


def test_an_empty_folder_may_be_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _put(tmp_path / "a")
    assert existing(tmp_path / "a", FIRST)


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="cannot be made"):
        existing(tmp_path / "file" / "deep" / "a", FIRST)


def test_a_damaged_artifact_is_named_and_can_be_overwritten(tmp_path: Path) -> None:
    _put(tmp_path / "a")
    (tmp_path / "a" / "sub" / "file.txt").unlink()
    with pytest.raises(StoreError, match=r"sub/file\.txt is missing"):
        existing(tmp_path / "a", FIRST)
    _put(tmp_path / "a", overwrite=True)
    assert existing(tmp_path / "a", FIRST)


def test_everything_that_decides_the_content_decides_the_id() -> None:
    base = {"kind": "k", "config": {"a": 1}, "inputs": {"x": "1"}, "seed": 0}
    changes = [{}, {"kind": "l"}, {"config": {"a": 2}}, {"inputs": {"x": "2"}}, {"inputs": {"y": "1"}}, {"seed": None}]
    assert len({Identity(**{**base, **change}).id for change in changes}) == len(changes)
    assert Identity(**base).id == Identity(**{**base, "config": {"a": 1.0}}).id


def test_a_draft_lies_beside_its_place(tmp_path: Path) -> None:
    with writing(tmp_path / "a", FIRST) as draft:
        assert isinstance(draft, Draft)
        assert draft.folder.parent == tmp_path
        assert draft.folder.name.startswith(".a.writing-")
        assert f"-{os.getpid()}-" in draft.folder.name
        assert not (tmp_path / "a").exists()
