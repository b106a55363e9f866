"""`unweave sweep`: lists of values on the command line, and what is left and printed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.cli.sweep import take_lists
from unweave.core.errors import InputError
from unweave.recipes.grid import Axis
from unweave.recipes.sweep_result import CSV, SWEEP

BRIEF = "--fit.epochs 1 --training.epochs 2 --analysis.permutations 9"


@pytest.mark.parametrize(
    ("given", "kinds", "axes", "rest"),
    [
        ("--sae.k 4,8 --seeds 0,1", [], [Axis("sae", "k", ("4", "8"))], "--seeds 0,1"),
        ("--sae.k=4,8 --sae.d-sae 64", [], [Axis("sae", "k", ("4", "8"))], "--sae.d-sae 64"),
        ("--sae relu --sae.l1 0.1,1", [], [Axis("sae", "l1", ("0.1", "1"))], "--sae relu"),
        ("--training.learning-rate 1e-3,-2", [], [Axis("training", "learning_rate", ("1e-3", "-2"))], ""),
        ("--sae.aux_k 3,none --out a,b", [], [Axis("sae", "aux_k", ("3", "none"))], "--out a,b"),
        (
            "--sae topk,relu --sae.k 4 --sae.l1=0.1,1 --seed 3 --training.epochs 2",
            ["topk", "relu"],
            [Axis("sae", "k", ("4",)), Axis("sae", "l1", ("0.1", "1"))],
            "--seed 3 --training.epochs 2",
        ),
        ("--model.widths 64 32 --training.no-shuffle", [], [], "--model.widths 64 32 --training.no-shuffle"),
    ],
)
def test_lists_are_taken_out(given: str, kinds: list[str], axes: list[Axis], rest: str) -> None:
    arguments = given.split()
    assert take_lists(arguments) == (kinds, axes)
    assert arguments == rest.split()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--sae.k", ""], r"^--sae\.k '': there is no value"),
        (["--sae.k="], r"^--sae\.k '': there is no value"),
        (["--sae.k", ","], r"^--sae\.k ',': .*empty"),
        (["--sae.k", "4,,8"], r"^--sae\.k '4,,8': .*empty"),
        (["--sae", "topk,"], r"^--sae 'topk,': .*empty"),
        (["--sae.k", "4,8", "--sae.k", "16"], r"^--sae\.k stands twice"),
        (["--sae.aux-k", "4,8", "--sae.aux_k=16"], r"^--sae\.aux-k stands twice"),
        (["--fit.epochs", "1,2"], r"^--fit\.epochs 1,2: only options of the dictionary and its training"),
        (["--seed", "0,1"], r"^--seed 0,1: only options"),
    ],
)
def test_lists_that_make_no_sense_are_told(given: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        take_lists(given)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ("which recipe?", "digits")),
        ("nope", ("'nope'", "digits")),
        ("digits", ("nothing to sweep", "--sae.k 4,8")),
        ("digits --sae.k 4", ("nothing to sweep",)),
        ("digits --sae.k 4,4", ("nothing to sweep",)),
        ("digits --sae.k 4,x", ("--sae.k: ", "integer", "'x'")),
        ("digits --sae.kk 4,8", ("--sae.kk: ", "did you mean 'k'")),
        ("digits --sae.k 4,500", ("--sae.k 500: k must lie between 1 and d_sae (128)",)),
        ("digits --sae topk,nope", ("no dictionary 'nope'",)),
        ("digits --sae topk,relu --sae.nope 3", ("--sae.nope: ", "topk, relu")),
        ("digits --sae.k 4,8 --sae.wat 3", ("--sae.wat",)),
        ("digits --seeds 0,a", ("--seeds", "'0,a'")),
        ("digits --seeds , --sae.k 4,8", ("--seeds", "whole numbers")),
        ("digits --seeds 1,1", ("seeds must be different",)),
        ("digits --preset nope --sae.k 4,8", ("no preset 'nope'",)),
        ("digits --at fc9 --sae.k 4,8", ("'fc9'",)),
        ("digits --training.betas 0.9,0.99", ("--training.betas: ", "tuple")),
    ],
)
def test_bad_input_is_one_line(cli: Callable, here: Path, line: str, words: tuple[str, ...]) -> None:
    ended = cli(f"sweep {line}")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert not list(here.rglob("*.safetensors"))


def test_a_sweep_leaves_a_table_a_figure_and_a_page(cli: Callable, here: Path) -> None:
    line = f"sweep digits --sae topk,relu --sae.k 4,8 --sae.l1 1 --sae.d-sae 32 --seeds 0,1 {BRIEF}"
    ended = cli(line)
    assert ended.code == 0, ended.err
    (folder,) = (here / "runs").iterdir()
    assert re.fullmatch(r"sweep-digits-[0-9a-f]{8}", folder.name)
    assert {SWEEP, CSV, "report.html", "metrics.json", "run.json"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "figures").iterdir()} == {"pareto.png", "pareto.svg"}
    points = json.loads((folder / SWEEP).read_text())["points"]
    assert [point["name"] for point in points][::2] == [
        "topk,k=4,d_sae=32,seed=0",
        "topk,k=8,d_sae=32,seed=0",
        "relu,l1=1.0,d_sae=32,seed=0",
    ]
    for words in ("topk k=4 d_sae=32", "relu l1=1.0 d_sae=32", "explained", "pca", "±", f"{folder.name}/report.html"):
        assert words in ended.out
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "artifacts").rglob("*.safetensors")}
    assert cli(line).code == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "artifacts").rglob("*.safetensors")} == stamps


def test_help_names_lists_and_flags(cli: Callable) -> None:
    ended = cli("sweep --help")
    assert (ended.code, ended.err) == (0, "")
    assert "--sae.k 4,8,16,32 --seeds 0,1,2" in ended.out
    of_recipe = cli("sweep digits --help")
    assert of_recipe.code == 0
    assert all(flag in of_recipe.out for flag in ("--seeds INT,INT,...", "--sae.k", "--training.epochs", "--threads"))
