"""Folders of every kind, permissions that are missing, and the command line's own words and exit codes."""

import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import ERROR, RIGHT
from faulting.stages import STAGES, other_run
from faulting.trials import left, work

if TYPE_CHECKING:
    from conftest import Ground

Tally = Callable[[str], None]
NAMES = ["two words", "a=b@c,d", "größe-尺寸", "100%", "what?", "#1", "[a]*", "~", "-x", "{x}", "quo'te\"", "n" * 120]
LEAVING = ["capture", "train", "study", "rate", "run"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_kind(ground: "Ground", name: str, tmp_path: Path, tally: Tally) -> None:
    first = NAMES.index(name)
    for stage in (LEAVING[first % len(LEAVING)], LEAVING[(first + 2) % len(LEAVING)]):
        place = tmp_path / stage / name
        for _ in range(2):  # made, then found again
            ended = ground.nursery.run(work(stage), ground.inputs, place)
            assert ended.how == "right", f"{stage} in {name!r}: {ended.text}"
        assert left(place) == ground.right[stage], f"{stage} in {name!r}"
        tally(RIGHT)


@pytest.mark.parametrize("stage", LEAVING)
def test_links(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    """A link to where results go, and a link in the place of the result itself."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert ground.nursery.run(work(stage), ground.inputs, tmp_path / "link").how == "right"
    assert left(tmp_path / "real") == ground.right[stage]
    (made,) = (tmp_path / "real").iterdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / made.name).symlink_to(tmp_path / "elsewhere" / "not yet")
    for _ in range(2):
        ended = ground.nursery.run(work(stage), ground.inputs, tmp_path / "out")
        assert ended.how == "right", f"{stage}: {ended.text}"
    assert (tmp_path / "out" / made.name).is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["not yet"]
    tally(RIGHT)


def as_nobody(stage: str, inputs: Path, out: Path) -> None:
    """A stage by a user whom permissions bind."""
    if os.getuid() == 0:
        os.setuid(65534)
    work(stage)(inputs, out)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter; pytest's own may only be entered by its owner."""
    folder = Path(tempfile.mkdtemp(prefix="unweave-places-"))
    folder.chmod(0o755)
    yield folder
    for closed in (folder / "hidden", folder / "closed"):
        closed.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_places_that_cannot_be(ground: "Ground", stage: str, open_folder: Path, tally: Tally) -> None:
    """A folder that may not be written to, one that may not be entered, a file in the way, a name that is too long."""
    closed, hidden, file = open_folder / "closed", open_folder / "hidden", open_folder / "file"
    closed.mkdir()
    (hidden / "inside").mkdir(parents=True)
    file.write_text("years of work")
    shutil.copytree(ground.inputs, open_folder / "inputs")
    for path in (open_folder / "inputs", *(open_folder / "inputs").rglob("*")):
        path.chmod(0o755)
    closed.chmod(0o555)
    hidden.chmod(0o000)
    places = (closed / "out", hidden / "inside", file, file / "out", open_folder / ("n" * 300))
    first = list(STAGES).index(stage)
    for out in (places[first % len(places)], places[(first + 2) % len(places)]):
        ended = ground.nursery.run(as_nobody, stage, open_folder / "inputs", out)
        assert ended.how == "error", f"{stage} into {out}: {ended.how} {ended.text}"
        assert str(out)[:100] in ended.text, f"{stage} into {out}: {ended.text}"
        tally(ERROR)
    assert file.read_text() == "years of work"
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("stage", ["train", "run"])
def test_a_folder_that_goes_meanwhile(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    """Whatever the moment: it is there whole, or it is an error; the next one makes it again."""
    for wait in (0.02, 0.08, 0.2):
        out = tmp_path / f"{wait}"
        child = ground.nursery.start(work(stage), ground.inputs, out)
        time.sleep(wait)
        shutil.rmtree(out, ignore_errors=True)
        ended = child.end()
        assert ended.how in ("right", "error"), f"{stage} after {wait} s: {ended.text}"
        if ended.how == "error":
            assert str(out) in ended.text
        shutil.rmtree(out, ignore_errors=True)
        assert ground.nursery.run(work(stage), ground.inputs, out).how == "right"
        assert left(out) == ground.right[stage]
        tally(ERROR if ended.how == "error" else RIGHT)


def on_the_command_line(given: list[str], where: Path) -> tuple[int, str]:
    """Exit code and what was printed."""
    from unweave.cli.main import main

    os.chdir(where)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = sys.stderr = io.StringIO()
    (where / "begun").touch()
    return main(given), sys.stderr.getvalue()


def test_ctrl_c_on_the_command_line(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    command = ["train", str(ground.inputs / "rows"), "--out", "sae", "--sae.d-sae", "24", "--sae.k", "3"]
    endless = [*command, "--training.steps", "100000000", "--checkpoint-seconds", "0"]
    child = ground.nursery.start(on_the_command_line, endless, tmp_path)
    while not list(tmp_path.glob(".sae.checkpoint.safetensors")):
        time.sleep(0.02)
    child.kill(signal.SIGINT)
    code, said = child.end().value
    assert code == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sae.checkpoint.safetensors", "begun"]
    tally(RIGHT)


def test_errors_on_the_command_line_are_a_line(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    shutil.copytree(ground.inputs / "rows", tmp_path / "rows")
    shard = next((tmp_path / "rows").glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    for given in (["train", "rows", "--out", "sae"], ["verify", "rows"], ["verify", "nothing"], ["report", "rows"]):
        code, said = ground.nursery.run(on_the_command_line, given, tmp_path).value
        assert code == 2, said
        assert "error: " in said
        assert "Traceback" not in said
        tally(ERROR)


def test_a_run_that_is_complete_is_not_harmed_by_another(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    ground.nursery.run(work("run"), ground.inputs, tmp_path)
    ended = ground.nursery.run(other_run, ground.inputs, tmp_path)
    assert ended.how == "error"
    assert "choose another" in ended.text
    assert left(tmp_path) == ground.right["run"]
    tally(ERROR)
