"""`unweave sweep`: lists of values on the command line, and what is left and printed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.cli.sweep import take_lists
from unweave.core.errors import InputError
from unweave.dictionaries.stored import load
from unweave.recipes.grid import Axis
from unweave.recipes.sweep_result import CSV, SWEEP, Sweep
from unweave.store.artifact import read_manifest

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


def test_a_stream_is_swept_without_a_store(cli: Callable, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    line = f"sweep --stream --at fc2 --sae.d-sae 16 --sae.k 2,4 --seeds 0,1 --training.epochs 2 --out {out}"
    ended = cli(line)
    assert ended.code == 0, ended.err
    found = Sweep.read(out)
    assert [point.name for point in found.points] == [f"k={k},seed={seed}" for k in (2, 4) for seed in (0, 1)]
    assert found.judged_on == "held-out rows"
    assert {control.condition for control in found.controls} == {"neurons", "pca", "random"}
    assert not list(out.rglob("activations*"))
    assert (out / "report.html").is_file()
    said = json.loads((out / "run.json").read_text())
    assert (said["recipe"], said["config"]["capture"]["at"]) == ("sweep stream", ["fc2"])
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("manifest.json")}
    assert cli(line.replace("2,4", "2,4,8")).code == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "a further value joins the others"
    assert [point.options["k"] for point in Sweep.read(out).points] == [2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sweep digits --stream --at fc2 --sae.k 2,4", "digits and --stream: rows come from a store or from a stream"),
        ("sweep --stream --at fc2 --sae.k 2", "nothing to sweep"),
        ("sweep --stream --sae.k 2,4", "--at"),
        ("sweep --stream --at * --sae.k 2,4", "a sweep is about one hook point; --at stands for"),
        ("train store --stream --at fc2 --out x", "store and --stream: rows come from a store or from a stream"),
        ("train --out x", "which rows? Give a store's folder first"),
        ("train --stream --out x", "--at"),
    ],
)
def test_streams_that_make_no_sense_are_told(
    cli: Callable, line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli(line)
    assert (ended.code, words in ended.err) == (2, True), ended.err
    assert not list(tmp_path.iterdir())


def test_a_dictionary_is_trained_while_the_model_runs(cli: Callable, tmp_path: Path) -> None:
    line = "train --stream --at {at} --sae.d-sae 16 --sae.k 2 --training.epochs 2 --limit 300 --out {out}"
    assert cli(line.format(at="fc2", out=tmp_path / "one")).code == 0
    ended = cli(line.format(at="fc1 fc2", out=tmp_path / "two"))
    assert ended.code == 0, ended.err
    found = [load(tmp_path / folder) for folder in ("one", "two/fc1", "two/fc2")]
    assert [one.hook_name for one in found] == ["fc2", "fc1", "fc2"]
    details = read_manifest(tmp_path / "one").details
    assert details["stream"]["examples"] == 300
    assert details["source"]["model"]["kind"] == "mlp"
