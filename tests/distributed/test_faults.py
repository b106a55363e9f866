import signal
import time
from pathlib import Path

import pytest

from unweave.store.artifact import MANIFEST
from unweave.train.checkpoint import CHECKPOINT

_CAPTURE = ["-m", "unweave", "capture", "--at", "fc1", "--out"]
_TIMEOUT_SECONDS = 120


def _ended(processes) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=_TIMEOUT_SECONDS)[1] for process in processes]
    errors = [line for text in said for line in text.splitlines() if "error" in line.lower() or "fault" in line.lower()]
    return [process.returncode for process in processes], errors


def _wait_for(there) -> None:
    until = time.monotonic() + _TIMEOUT_SECONDS
    while not there():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


def test_a_rank_that_is_killed_ends_training_with_one_line_and_it_goes_on(start, run, tmp_path: Path) -> None:
    assert [code for code, _ in run(2, *_CAPTURE, tmp_path / "rows")] == [0, 0]
    checkpoint = tmp_path / f".sae{CHECKPOINT}"
    train = ["-m", "unweave", "train", tmp_path / "rows", "--out", tmp_path / "sae", "--training.batch-size", "32"]
    written = 0
    for victim in (1, 0):
        processes = start(2, *train, "--training.epochs", "100000", "--checkpoint-seconds", "0.2")
        _wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > written)  # noqa: B023
        processes[victim].send_signal(signal.SIGKILL)
        codes, errors = _ended(processes)
        assert (codes[victim], codes[1 - victim]) == (-9, 1)
        assert len(errors) == 1
        assert f"rank {victim}" in errors[0]
        assert "the same command goes on from the last checkpoint" in errors[0]
        written = checkpoint.stat().st_mtime_ns


_SLOW_CAPTURE = """
import sys, time
from unweave.cli.main import main
from unweave.store.shared_writer import SharedWriter
add = SharedWriter.add
def slow(self, *arguments, **options):
    (self.folder.parent / "under way").touch()
    time.sleep(0.2)
    add(self, *arguments, **options)
SharedWriter.add = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_a_capture_with_one_line_and_it_starts_again(
    start, run, script, tmp_path: Path, victim: int
) -> None:
    command = ["capture", "--at", "fc1", "--batch-size", "64", "--out", tmp_path / "rows"]
    processes = start(2, script(_SLOW_CAPTURE), *command)
    _wait_for((tmp_path / "under way").exists)
    processes[victim].send_signal(signal.SIGKILL)
    codes, errors = _ended(processes)
    assert codes[victim] == -9
    assert codes[1 - victim] == 1
    assert len(errors) == 1
    assert f"rank {victim}" in errors[0]
    assert not (tmp_path / "rows").exists()
    assert [code for code, _ in run(2, "-m", "unweave", *command)] == [0, 0]
    assert (tmp_path / "rows" / MANIFEST).is_file()
    assert not list(tmp_path.glob(".rows*")), "what the killed one left is gone"


_DIFFERENT = """
import os, sys
from unweave.cli.main import main
sys.exit(main(["train", "rows", "--out", "there" if os.environ["RANK"] == "0" else "elsewhere"]))
"""

_ONE_FAILS = """
import os, sys
from unweave.cli.main import main
from unweave.core.errors import InputError
from unweave.train import trainer
step = trainer.Trainer.train_batch
def fails(self, *arguments):
    if os.environ["RANK"] == "1" and self.step == 3:
        raise InputError("this rank had enough")
    step(self, *arguments)
trainer.Trainer.train_batch = fails
sys.exit(main(sys.argv[1:]))
"""


def test_ranks_that_are_told_different_things_say_so_once(run, script) -> None:
    ended = run(2, script(_DIFFERENT))
    assert [code for code, _ in ended] == [2, 2]
    assert "".join(text for _, text in ended).count("the ranks differ in their command line") == 1


def test_an_error_on_one_rank_is_said_once_and_ends_the_others(run, start, script, tmp_path: Path) -> None:
    run(1, *_CAPTURE, tmp_path / "rows")
    codes, errors = _ended(start(3, script(_ONE_FAILS), "train", tmp_path / "rows", "--out", tmp_path / "sae"))
    assert codes == [1, 2, 1]
    assert errors == ["error: this rank had enough"]
    assert not (tmp_path / "sae").exists()


def test_the_launcher_ends_with_the_code_of_the_rank_that_failed(run, tmp_path: Path) -> None:
    ((code, said),) = run(1, "-m", "unweave", "--ranks", "2", "train", tmp_path / "none", "--out", tmp_path / "sae")
    assert code == 2
    assert said.count("error:") == 1
