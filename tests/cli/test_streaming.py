"""`--stream`: what is wrong is said before the model runs, and places can be named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.cli.streaming import Streaming
from unweave.store.artifact import read_json

LINE = "train --stream --at {at} --sae.d-sae 16 --sae.k {k} --training.epochs 1 --limit 64 --out {out}"


def test_a_folder_that_is_taken_costs_no_model_pass(cli: Callable, here: Path) -> None:
    (here / "theirs").mkdir()
    (here / "theirs" / "file").touch()
    assert cli(LINE.format(at="fc2", k=2, out="sae")).code == 0
    assert cli(LINE.format(at="fc2", k=2, out="sae")).code == 0, "the same again is read back"
    taken = {
        LINE.format(at="fc2", k=2, out="theirs"): "theirs exists and is no Unweave artifact",
        LINE.format(at="fc1 fc2", k=2, out="theirs/file"): "theirs/file",
        LINE.format(at="fc2", k=2, out="s3://bucket/sae"): "is a URL, where only activation stores can be written",
        LINE.format(at="fc2", k=2, out="sae/inner"): "inside the artifact",
        LINE.format(at="fc2", k=3, out="sae"): "made from other settings or inputs",
        LINE.format(at="fc2", k=2, out="sae") + " --seed 1": "made from other settings or inputs",
        LINE.format(at="fc2", k=2, out="sae") + " --training.learning-rate 0.5": "made from other settings or inputs",
    }
    # A process without checks of types, which ask a stream for its rows.
    script = f"from unweave.cli.main import main; print([main(line.split()) for line in {list(taken)!r}])"
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == str([2] * len(taken))
    said = ended.stderr.splitlines()
    assert len(said) == len(taken), said  # "Sampling rows" would be among them
    assert [words in line for words, line in zip(taken.values(), said, strict=True)] == [True] * len(taken), said


def test_a_grid_is_named_as_capture_names_it(cli: Callable, here: Path) -> None:
    line = LINE.format(at="relu2", k=2, out="{out}") + " --model cnn --rows position --grid {grid}"
    assert cli(line.format(grid="4x4", out="right")).code == 0
    refused = cli(line.format(grid="2x8", out="wrong"))
    assert (refused.code, "no grid of 2 × 8 places" in refused.err) == (2, True), refused.err


def test_runs_from_before_there_were_grids_are_still_theirs(cli: Callable, here: Path) -> None:
    line = "sweep --stream --at fc2 --sae.d-sae 16 --sae.k 2,4 --training.epochs 1 --limit 64 --out swept"
    assert cli(line).code == 0
    assert "grid" not in read_json(here / "swept" / "run.json")["config"]
    assert "grid" in Streaming.__dataclass_fields__


@pytest.mark.parametrize(
    "line",
    [
        'capture --at "" --out acts',
        'capture --at fc1 "" --out acts',
        'train --stream --at "" --out sae',
        'sweep --stream --at "" --sae.k 2,4 --out swept',
        'run digits --at "" --out run',
        'run layer --at "" --out run',
    ],
)
def test_an_empty_name_is_no_module(cli: Callable, here: Path, line: str) -> None:
    ended = cli(line)
    assert (ended.code, "--at" in ended.err, "empty" in ended.err) == (2, True, True), ended.err
    assert not list(here.iterdir())
