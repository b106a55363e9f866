"""Captures that are killed go on: the same bytes, and the model runs on what is missing alone."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import RIGHT
from faulting.faults import DiskFull, Fault, Moments, interrupted, killed
from faulting.stages import counted_capture
from faulting.trials import left

from unweave.store.drafts import UNFINISHED
from unweave.store.pieces import read_notes

if TYPE_CHECKING:
    from conftest import Ground

SEED = 11
AT = (["2"], ["2", "4"])
FIRST = 1  # where files are put together of parts, the first batch runs once more: it tells their sizes
Tally = Callable[[str], None]


def do(out: Path, at: list[str], moment: int | None, fault: Fault) -> int:
    """Capture with a fault at the n-th change of a file; returns how many changes there were."""
    moments = Moments(out, moment, fault)
    moments.install()
    counted_capture(out, at)
    return moments.seen


def batches_kept(out: Path, at: list[str]) -> int:
    """How many batches are whole for every hook point, from the first on."""
    kept = []
    for name in [""] if len(at) == 1 else at:
        done: set[int] = set()
        for notes in out.rglob(f".{name or 'rows'}.writing-*/{UNFINISHED}"):
            pieces = read_notes(notes)
            done = max(done, {number for one in pieces for number in range(one.first, one.stop)}, key=len)
        kept.append(done)
    return len(set.intersection(*kept))


@pytest.fixture(scope="module", params=AT, ids=["one hook point", "two"])
def right(request: pytest.FixtureRequest, ground: "Ground") -> tuple[list[str], int, int, dict[str, str]]:
    """Hook points, how often the model runs for them, how often a file changes, and what is left."""
    at, place = request.param, ground.scratch / "captures" / str(len(request.param))
    calls = ground.nursery.run(counted_capture, place, at)
    changes = ground.nursery.run(do, place / "again", at, None, killed)
    assert (calls.how, changes.how) == ("right", "right"), (calls, changes)
    files = {name: content for name, content in left(place).items() if not name.startswith("again/")}
    return at, calls.value, changes.value, files


@pytest.mark.parametrize(
    "fault",
    [killed, interrupted, DiskFull(None), DiskFull(900)],
    ids=["killed", "interrupted", "full at once", "full later"],
)
def test_a_capture_goes_on(
    ground: "Ground", right: tuple[list[str], int, int, dict[str, str]], fault: Fault, tmp_path: Path, tally: Tally
) -> None:
    at, calls, changes, files = right
    drawn, spared = random.Random(f"{SEED} {at} {fault}"), 0
    for moment in drawn.sample(range(changes // 4, changes), 3):
        said, out = f"{fault}, moment {moment} of {changes} (seed {SEED})", tmp_path / str(moment)
        ended = ground.nursery.run(do, out, at, moment, fault)
        assert ended.how in ("killed", "interrupted", "error", "right"), f"{said}: {ended}"
        kept = batches_kept(out, at)
        again = ground.nursery.run(counted_capture, out, at)
        assert again.how == "right", f"{said}: {again}"
        assert left(out) == files, said
        whole = ended.how == "right" or not again.value
        assert whole or again.value <= calls - kept + FIRST, f"{said}: {kept} batches were there"
        spared += calls - again.value
        tally(RIGHT)
    assert spared >= calls, "three times from scratch is much more"


def test_a_capture_is_killed_again_and_again_at_any_time(
    ground: "Ground", right: tuple[list[str], int, int, dict[str, str]], tmp_path: Path, tally: Tally
) -> None:
    at, calls, _, files = right
    drawn = random.Random(f"{SEED} {at}")
    for _ in range(6):
        child = ground.nursery.start(counted_capture, tmp_path, at)
        time.sleep(drawn.uniform(0, 0.1))
        child.kill()
        assert child.end().how in ("killed", "right")
        tally(RIGHT)
    again = ground.nursery.run(counted_capture, tmp_path, at)
    assert again.how == "right", again
    assert again.value <= calls + FIRST
    assert left(tmp_path) == files
