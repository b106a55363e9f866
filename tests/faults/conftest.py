"""Inputs of all stages, what each stage leaves where nothing goes wrong, and the process that others are forks of."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faulting.children import Nursery
from faulting.faults import killed
from faulting.stages import STAGES, warm_up
from faulting.trials import do, left


@dataclass(frozen=True)
class Ground:
    """Where trials take place.

    Attributes:
        nursery: gives processes.
        inputs: of every stage; no trial may change them.
        right: files that each stage leaves, with their fingerprints.
    """

    nursery: Nursery
    inputs: Path
    right: dict[str, dict[str, str]]
    scratch: Path
    _counted: dict[str, int] = field(default_factory=dict)

    def moments(self, stage: str) -> range:
        """Every moment at which a stage changes something on the disk."""
        if stage not in self._counted:
            ended = self.nursery.run(do, stage, self.inputs, self.scratch / stage, None, killed)
            assert ended.how == "right", ended
            self._counted[stage] = ended.value
        return range(self._counted[stage])

    def some_moments(self, stage: str, seed: str, most: int) -> list[int]:
        """A seeded sample of them."""
        every = self.moments(stage)
        return sorted(random.Random(f"{seed} {stage}").sample(every, min(most, len(every))))


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Every stage done once, without faults."""
    folder = tmp_path_factory.mktemp("ground")
    with Nursery(warm_up, folder / "inputs", folder / "right", tuple(STAGES)) as nursery:
        before = left(folder / "inputs")
        right = {stage: left(folder / "right" / stage) for stage in STAGES}
        yield Ground(nursery, folder / "inputs", right, folder / "counted")
        assert left(folder / "inputs") == before, "a trial has changed what it was given"
