"""`unweave study`: what it prints, and errors that say what to do."""

import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.rating.desk import Desk, Showing
from unweave.study import Study

SIZES = "--latents 3 --images 4 --skip 0 --repeats 1 --raters 2"


@pytest.fixture
def study(cli: Callable, made: Path, tmp_path: Path) -> Study:
    """Two conditions of a run on digits."""
    done = cli(f"study new {made}/run --conditions sae,random {SIZES} --out {tmp_path}/study")
    assert done.code == 0, done.err
    return Study(tmp_path / "study")


def test_new_says_what_was_drawn_and_what_comes_next(cli: Callable, made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "run", tmp_path / "run")
    line = f"study new {run} --conditions sae,neurons,random {SIZES}"
    done = cli(line)
    assert done.code == 0
    assert "9 grids: 3 latents of each of sae, neurons, random; 2 raters see 10 each, 1 of them a second" in done.out
    assert re.search(r"Sealed key: [0-9a-f]{64} ", done.out)
    folder = re.search(r"^Study: (.*)$", done.out, re.MULTILINE)[1]
    assert f"Next: unweave study serve {folder}" in done.out
    assert Path(folder).parent == run / "studies"
    assert cli(line).out == done.out, "the same command, the same study"


def test_status_tells_how_far_and_no_rating(cli: Callable, study: Study) -> None:
    desk = Desk(study)
    desk.rate("rater-1", Showing(0, 0), 6)
    desk.rate("rater-1", Showing(1, 0), 6)
    done = cli(f"study status {study.folder}")
    assert done.code == 0
    assert re.search(r"^rater-1 +2 +7 ", done.out, re.MULTILINE)
    assert re.search(r"^rater-2 +0 +7 ", done.out, re.MULTILINE)
    assert "2 of 14 ratings are in; the key opens at 14." in done.out
    assert "was opened" not in done.out
    study.unseal(early=True)
    assert "at 2 of 14, early." in cli(f"study status {study.folder}").out


def test_ratings_elsewhere(cli: Callable, study: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.sqlite"
    there = Study(study.folder, url)
    one = there.order("rater-1")[0]
    there.database.rate("rater-1", 0, 0, item=one.item, repeat=False, value=3, at=time.time())
    assert "1 of 14" in cli(f"study status {study.folder} --database {url}").out
    assert "0 of 14" in cli(f"study status {study.folder}").out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "which command? One of: new, serve, status, score, simulate"),
        ("srve", "there is no command 'srve': did you mean 'serve'"),
        ("new", "PATH"),
        ("new nowhere", "nowhere holds no run"),
        ("new {run} --conditions sae,", "conditions are names"),
        ("new {run} --conditions sae", "two or more different conditions, got sae"),
        ("new {run} --conditions sae,nurons", "did you mean 'neurons'"),
        ("new {run} --latents 60", "has"),
        ("new {run} --repeats 40 --latents 3 --images 4 --skip 0", "--repeats can be up to 3"),
        ("new {run} --latents 0", "--latents must be at least 1"),
        ("serve nowhere", "nowhere is no Unweave artifact"),
        ("serve {run}/artifacts/atlas", "not 'study'"),
        ("status {run}/artifacts/sae", "not 'study'"),
    ],
)
def test_errors_say_what_to_do(cli: Callable, made: Path, tmp_path: Path, line: str, said: str) -> None:
    given = line.format(run=made / "run")
    out = f" --out {tmp_path}/s" if "{run}" in line and line.startswith("new") else ""
    done = cli(f"study {given}{out}")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "s").exists()


def test_help_lists_all_commands(cli: Callable) -> None:
    done = cli("study --help")
    assert done.code == 0
    for name in ("new", "serve", "status", "score", "simulate"):
        assert re.search(rf"^  {name} ", done.out, re.MULTILINE)
    for name in ("new", "serve", "status"):
        assert "--" in cli(f"study {name} --help").out


def test_a_taken_port_is_named(cli: Callable, study: Study) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli(f"study serve {study.folder} --port {port}")
    assert done.code == 2
    assert f"127.0.0.1:{port} cannot be listened on" in done.err
    assert "--port" in done.err


def test_a_missing_package_is_named_with_its_install(
    cli: Callable, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nicegui", None)
    done = cli(f"study serve {study.folder}")
    assert done.code == 2
    assert "pip install 'unweave[study]'" in done.err
