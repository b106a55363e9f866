"""Two processes at once in one place: the same work ends right twice, other work is one error, nothing is harmed."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import ERROR, RIGHT
from faulting.stages import STAGES, other_run, other_training
from faulting.trials import left, work

from unweave.store.verify import verify

if TYPE_CHECKING:
    from conftest import Ground

SEED = 8
Tally = Callable[[str], None]


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_work(ground: "Ground", stage: str, tmp_path: Path, tally: Tally) -> None:
    """Both give the same; what one of them is killed over, the other does not lose."""
    drawn = random.Random(f"{SEED} {stage}")
    first = ground.nursery.start(work(stage), ground.inputs, tmp_path)
    time.sleep(drawn.uniform(0, 0.05))
    second = ground.nursery.start(work(stage), ground.inputs, tmp_path)
    if drawn.random() < 0.5:
        time.sleep(drawn.uniform(0, 0.1))
        first.kill()
    ends = first.end(), second.end()
    assert ends[0].how in ("right", "killed"), f"{stage}, seed {SEED}: {ends[0].text}"
    assert ends[1].how == "right", f"{stage}, seed {SEED}: {ends[1].text}"
    assert ground.nursery.run(work(stage), ground.inputs, tmp_path).how == "right"  # clears what the killed one left
    assert left(tmp_path) == ground.right[stage], f"{stage}, seed {SEED}"
    tally(RIGHT)


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(("stage", "other"), [("run", other_run), ("train", other_training)])
def test_other_work(
    ground: "Ground", stage: str, other: Callable[..., None], wait: float, tmp_path: Path, tally: Tally
) -> None:
    first = ground.nursery.start(work(stage), ground.inputs, tmp_path)
    time.sleep(wait)
    second = ground.nursery.start(other, ground.inputs, tmp_path)
    ends = first.end(), second.end()
    assert sorted(end.how for end in ends) == ["error", "right"], ends
    refused = next(end for end in ends if end.how == "error")
    assert str(tmp_path) in refused.text
    assert "choose another" in refused.text
    assert not verify(tmp_path).damaged
    if ends[0].how == "right":
        found = left(tmp_path)
        assert {name: found[name] for name in ground.right[stage]} == ground.right[stage]
    tally(ERROR)
