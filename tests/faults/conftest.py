"""Inputs of all stages, what each stage leaves where nothing goes wrong, and the process that others are forks of."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulting.children import Nursery
from faulting.stages import STAGES, warm_up
from faulting.trials import left


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


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Every stage done once, without faults."""
    folder = tmp_path_factory.mktemp("ground")
    with Nursery(warm_up, folder / "inputs", folder / "right", tuple(STAGES)) as nursery:
        before = left(folder / "inputs")
        yield Ground(nursery, folder / "inputs", {stage: left(folder / "right" / stage) for stage in STAGES})
        assert left(folder / "inputs") == before, "a trial has changed what it was given"
