"""Every stage is killed, interrupted and left without room at seeded moments; started again, it ends as ever."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import ERROR, RIGHT
from faulting.faults import DiskFull, Fault, interrupted, killed
from faulting.stages import STAGES
from faulting.trials import do, work

if TYPE_CHECKING:
    from conftest import Ground

SEED = 6
SAMPLED = 3
Tally = Callable[[str], None]


def moments(ground: "Ground", stage: str, folder: Path) -> list[int]:
    """The moments to try: a seeded sample, the last among it, in which most is under way."""
    counted = ground.nursery.run(do, stage, ground.inputs, folder, None, killed)
    assert counted.how == "right", counted
    drawn = random.Random(f"{SEED} {stage}").sample(range(counted.value), min(SAMPLED, counted.value))
    return sorted({*drawn, counted.value - 1})


def check_started_again(ground: "Ground", stage: str, folder: Path, said: str) -> None:
    """Started again, the stage leaves what it always leaves, and nothing else."""
    from faulting.trials import left

    again = ground.nursery.run(work(stage), ground.inputs, folder)
    assert again.how == "right", f"{said}: {again.text}"
    found, right = left(folder), ground.right[stage]
    assert sorted(found) == sorted(right), f"{said}: other files"
    assert not [name for name in right if found[name] != right[name]], f"{said}: other content"


def trials(ground: "Ground", stage: str, folder: Path, fault: Fault, ends: tuple[str, ...], tally: Tally) -> None:
    """The fault at each of the sampled moments."""
    for number in moments(ground, stage, folder / "counted"):
        place, said = folder / str(number), f"{stage}, {fault}, seed {SEED}, moment {number}"
        ended = ground.nursery.run(do, stage, ground.inputs, place, number, fault)
        assert ended.how in ends, f"{said}: {ended.how} {ended.text}"
        if ended.how == "error":
            assert str(place) in ended.text, f"{said}: {ended.text}"
            assert "cannot be written" in ended.text, f"{said}: {ended.text}"
            half = [path for path in place.rglob(".*writing-*")]
            assert not half, f"{said}: {half}"
        check_started_again(ground, stage, place, said)
        tally(ERROR if ended.how == "error" else RIGHT)


@pytest.mark.parametrize("stage", STAGES)
def test_killed(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    trials(ground, stage, tmp_path, killed, ("killed",), tally)


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    trials(ground, stage, tmp_path, interrupted, ("interrupted",), tally)


@pytest.mark.parametrize("room", [None, 0, 700])
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(ground: "Ground", stage: str, room: int | None, tmp_path: Path, tally: Tally) -> None:
    trials(ground, stage, tmp_path, DiskFull(room), ("error", "right"), tally)
