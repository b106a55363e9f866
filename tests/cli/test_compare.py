"""`unweave compare`: runs and stores, and errors that say what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained networks' layers of the same digits, and one of the other digits."""
    import shlex

    from unweave.cli.main import main
    from unweave.core.progress import silenced

    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch, silenced():
        patch.chdir(folder)
        for line in ("--seed 0 --out a", "--seed 1 --out b", "--seed 2 --split train --out other"):
            split = "" if "--split" in line else "--split test "
            assert main(shlex.split(f"capture --at fc2 {split}{line}")) == 0
    return folder


QUICK = "--permutations 19 --neighbours 3"


def test_two_stores(cli: Callable, stores: Path, tmp_path: Path) -> None:
    done = cli(f"compare {stores}/a {stores}/b {QUICK} --out {tmp_path}/found")
    assert done.code == 0
    assert "linear CKA" in done.out
    assert "one pair; 359 rows, 19 permutations" in done.out
    assert "was not measured" in done.out
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"table.parquet", "table.csv", "numbers.json", "similarity.png", "similarity.svg"} <= names


def test_runs_give_their_held_out_activations_and_untrained_ones_stand_beside(
    cli: Callable, made: Path, stores: Path
) -> None:
    run = made / "run"
    done = cli(f"compare {run} {made}/heldout --untrained {stores}/a {stores}/b {QUICK}")
    assert done.code == 0, done.err
    assert "untrained" in done.out
    assert cli(f"compare {run} {made}/heldout --role activations@train").code == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compare {s}/a", "at least two runs or stores, got 1"),
        ("compare {s}/a {s}/a", "given twice"),
        ("compare {s}/a {s}/b --untrained {s}/a", "got 1 for 2 instances"),
        ("compare {s}/a {s}/other", "a has 359 examples of 1 rows, other has 1,438"),
        ("compare {s}/a {s}", "neither a run nor an activation store"),
        ("compare {m}/run {s}/a --role activations@tset", "did you mean 'activations@test'"),
        ("compare {s}/a {s}/b --permutations 0", "permutations must be at least 19"),
    ],
)
def test_mistakes_are_named(cli: Callable, stores: Path, made: Path, line: str, message: str) -> None:
    done = cli(line.format(s=stores, m=made))
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
