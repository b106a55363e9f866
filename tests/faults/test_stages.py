"""Every stage is killed, interrupted and left without room at seeded moments; started again, it ends as ever."""

import itertools
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import ERROR, RIGHT
from faulting.faults import DiskFull, Fault, interrupted, killed
from faulting.stages import STAGES, rate_in_little_room
from faulting.trials import do, half_written, left, work

if TYPE_CHECKING:
    from conftest import Ground

SEED = 6
ENDS = ("killed", "interrupted", "error", "right")
FULL = [DiskFull(None), DiskFull(0), DiskFull(700)]
Tally = Callable[[str], None]


def trial(ground: "Ground", stage: str, place: Path, fault: Fault, moment: int, tally: Tally) -> None:
    """One fault at one moment; started again, the stage leaves what it always leaves, and nothing else."""
    said = f"{stage}, {fault}, moment {moment} (seed {SEED})"
    ended = ground.nursery.run(do, stage, ground.inputs, place, moment, fault)
    assert ended.how in ENDS, f"{said}: {ended.how} {ended.text}"
    if ended.how == "error":
        assert str(place) in ended.text, f"{said}: {ended.text}"
        assert "start again" in ended.text, f"{said}: {ended.text}"
        assert not half_written(place), f"{said}: something half-written is left"
    check_started_again(ground, stage, place, said)
    tally(ERROR if ended.how == "error" else RIGHT)


def check_started_again(ground: "Ground", stage: str, place: Path, said: str) -> None:
    """Without a fault it ends as ever."""
    again = ground.nursery.run(work(stage), ground.inputs, place)
    assert again.how == "right", f"{said}: {again.text}"
    found, right = left(place), ground.right[stage]
    assert sorted(found) == sorted(right), f"{said}: other files"
    assert not [name for name in right if found[name] != right[name]], f"{said}: other content"


@pytest.mark.parametrize("stage", STAGES)
def test_killed(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    for moment in ground.some_moments(stage, f"{SEED} killed", 2):
        trial(ground, stage, tmp_path / str(moment), killed, moment, tally)


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    for moment in ground.some_moments(stage, f"{SEED} interrupted", 1):
        trial(ground, stage, tmp_path / str(moment), interrupted, moment, tally)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    for number, moment in enumerate(ground.some_moments(stage, f"{SEED} full", 2)):
        full = FULL[(number + len(stage)) % len(FULL)]
        trial(ground, stage, tmp_path / str(moment), full, moment, tally)


@pytest.mark.parametrize("stage", ["train", "train several", "sweep", "rate"])
def test_killed_again_and_again_at_any_time(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    """By the clock, inside steps and inside other people's code; whatever has been done by then."""
    drawn = random.Random(f"{SEED} {stage}")
    for _ in range(4):
        child = ground.nursery.start(work(stage), ground.inputs, tmp_path)
        time.sleep(drawn.uniform(0, 0.25))
        child.kill()
        assert child.end().how in ("killed", "right")
        tally(RIGHT)
    check_started_again(ground, stage, tmp_path, f"{stage}, seed {SEED}")


def test_a_database_without_room(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    for room in (0, 5000):
        ended = ground.nursery.run(rate_in_little_room, ground.inputs, tmp_path, room)
        assert ended.how == "error", ended
        assert "ratings.sqlite" in ended.text
        tally(ERROR)
    check_started_again(ground, "rate", tmp_path, "a full database")


@pytest.mark.parametrize("stage", STAGES)
def test_a_small_disk(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    """A real file system with room for a share of what the stage leaves, then with room for all of it."""
    needed = sum(path.stat().st_size for path in (ground.scratch.parent / "right" / stage).rglob("*") if path.is_file())
    share = random.Random(f"{SEED} {stage}").choice([0.1, 0.4, 0.8])
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={max(8, round(share * needed / 1024))}k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("needs a small file system: this user may not mount one")
    try:
        ended = ground.nursery.run(work(stage), ground.inputs, tmp_path)
        assert ended.how in ("error", "right"), f"{stage} on {share} of its room: {ended.text}"
        if ended.how == "error":
            assert str(tmp_path) in ended.text, f"{stage} on {share} of its room: {ended.text}"
            tally(ERROR)
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path)], check=True)
        check_started_again(ground, stage, tmp_path, f"{stage} on {share} of its room")
        tally(RIGHT)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "fault"), list(itertools.product(STAGES, [killed, interrupted, *FULL])))
def test_every_fault_at_every_moment(ground: "Ground", stage: str, fault: Fault, tmp_path: Path, tally: Tally) -> None:
    for moment in ground.moments(stage):
        trial(ground, stage, tmp_path / str(moment), fault, moment, tally)
