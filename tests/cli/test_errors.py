"""Exit codes, and one line for each thing that a user can get wrong."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.cli import run
from unweave.core.errors import InputError
from unweave.recipes.base import RUN

SMALL = "--fit.epochs 0 --training.steps 1 --analysis.permutations 9"


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(ended: tuple[int, str, str], *words: str) -> None:
    code, out, err = ended
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in err + out
    assert "\x1b" not in err + out
    assert "---" not in err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ("which command?",)),
        ("runn digits", ("'runn'", "'run'")),
        ("nonsense", ("'nonsense'", "analyze", "train")),
        ("run", ("which recipe?", "digits")),
        ("run digit", ("'digit'", "'digits'")),
        ("run digits --preset publish", ("no preset 'publish'", "default")),
        ("run mnist-mlp --preset publish", ("'published'",)),
        ("run digits --preset", ("--preset needs a value",)),
        ("run digits --sae.kk 3", ("--sae.kk", "did you mean --sae.k?", "unweave run digits --help")),
        ("run digits --fit.epoch 3 --sae.kk 3", ("did you mean --fit.epochs or --sae.k?",)),
        ("run digits extra", ("extra",)),
        ("run digits --sae top", ("'top'", "'topk'")),
        ("run digits --sae", ("--sae needs a value",)),
        ("run digits --data nope", ("'nope'", "digits", "mnist")),
        ("run digits --model nope", ("'nope'", "no folder of that name")),
        ("run digits --sae.k eight", ("--sae.k", "'eight'")),
        ("run digits --sae.k", ("--sae.k", "Missing value")),
        ("run digits --sae.k 500", ("k must lie between 1 and d_sae (128), got 500",)),
        ("run digits --sae.d-sae 4", ("k must lie between 1 and d_sae (4), got 8",)),
        ("run digits --sae relu --sae.l1 -1", ("l1 must be at least 0",)),
        ("run digits --fit.optimizer rms", ("'rms'", "sgd")),
        ("run digits --fit.batch-size 0", ("batch_size",)),
        ("run digits --training.epochs 0", ("epochs must be at least 1",)),
        ("run digits --training.learning-rate nan", ("learning_rate must be above 0",)),
        ("run digits --seed one", ("--seed", "'one'")),
        ("run digits --device abacus", ("'abacus' is no device", "cpu")),
        ("run digits --device cuda:99", ("--device cuda:99",)),
        ("run digits --threads 0", ("--threads must be at least 1",)),
        ("run digits --model.std 0", ("std must not be 0",)),
        (f"run digits --at fc9 {SMALL}", ("no module 'fc9'", "'fc2'")),
        ("run digits --data.test-share 1", ("test_share",)),
        ("run mnist-mlp --data-dir nowhere", ("nowhere", "--data-dir")),
        ("run digits --data image-folder", ("needs --data-dir",)),
        ("recipes all", ("takes no arguments", "all")),
        ("capture --at fc2", ("--out",)),
        ("capture --out acts", ("--at",)),
        ("capture --at --out acts", ("no hook point",)),
        ("capture --at fc9 --out acts", ("no module 'fc9'", "'fc2'")),
        ("capture --at fc2 --out acts --rows tokens", ("'tokens'", "flatten")),
        ("capture --at fc2 --out acts --rows cls", ("needs tokens",)),
        ("capture --at fc2 --out acts --batch-size 0", ("batch_size",)),
        ("capture --at fc2 --out acts --device abacus", ("abacus",)),
        ("capture --at fc2 --out acts --std 0", ("std must not hold 0",)),
        ("capture --at fc2 --out acts --model custom", ("--model.factory",)),
        ("capture --at fc2 --out acts --model custom --model.factory net", ("package.module:callable",)),
        ("capture --at fc2 --out acts --model custom --model.factory no_net:make", ("no_net",)),
        ("capture --at fc2 --out acts --model custom --model.factory math:pi", ("not callable",)),
        ("capture --at fc2 --out acts --model custom --model.factory no_python:net", ("invalid syntax",)),
        ("capture --at fc2 --out acts --model .", ("no Unweave artifact",)),
        ("train", ("unweave train --help",)),
        ("train nowhere --out sae", ("nowhere is no Unweave artifact",)),
        ("analyze nowhere nowhere --out atlas", ("nowhere is no Unweave artifact",)),
        ("analyze nowhere", ("unweave analyze --help",)),
        ("analyze a b --out c --data nope", ("'nope'", "digits")),
        ("analyze a b --out c --analysis.top 0", ("top must be at least 1",)),
        ("report nowhere", ("nowhere is no Unweave artifact",)),
        ("report", ("unweave report --help",)),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cli: Callable, here: Path, line: str, words: tuple[str, ...]) -> None:
    (here / "no_python.py").write_text("def (")
    refused(cli(line), *words)
    assert not list(here.rglob("*.safetensors"))


def test_the_message_does_not_depend_on_the_letters_that_a_terminal_knows() -> None:
    command = [sys.executable, "-c", "import sys; from unweave.cli.main import main; sys.exit(main())"]
    command += ["train", "x", "--sae.kk", "3", "--out"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    refused((ended.returncode, ended.stdout, ended.stderr))
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run digits --out file", ("file is a file",)),
        ("run digits --out file/run", ("cannot be made",)),
        ("run digits --out foreign", ("not empty and holds no run",)),
        ("run digits --out run", ("another run",)),
        ("capture --at fc2 --out foreign", ("no Unweave artifact",)),
        ("capture --at fc1 --out acts", ("other settings",)),
        ("capture --at fc2 --out sae", ("kind 'dictionary'",)),
        ("train acts --out foreign", ("no Unweave artifact",)),
        ("train acts --out atlas", ("kind 'atlas'",)),
        ("train acts --out sae --seed 3", ("other settings",)),
        ("train sae --out new", ("kind 'dictionary', not 'activations'",)),
        ("train acts --out new --sae.d-sae 8", ("k must lie between 1 and d_sae (8), got 32",)),
        ("analyze acts sae --out new", ("kind 'dictionary', not 'activations'",)),
        ("analyze sae heldout --out acts", ("kind 'activations'",)),
        ("report acts", ("no report on an artifact of kind 'activations'",)),
        ("report foreign", ("no Unweave artifact",)),
        ("report unfinished", ("has not ended",)),
        ("report damaged/atlas", ("latents.parquet was changed or damaged",)),
        ("train damaged/acts --out new", ("bytes where its manifest says",)),
        ("analyze damaged/sae heldout --out new", ("sae_weights.safetensors",)),
        ("analyze sae heldout --split train --data digits --data.test-share 0.9 --out new", ("images",)),
    ],
)
def test_other_peoples_folders_and_damage_are_refused_and_left_alone(
    cli: Callable, chain: Path, here: Path, line: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "acts", "heldout", "sae", "atlas"):
        (here / name).symlink_to(chain / name)
    (here / "file").write_text("mine")
    (here / "foreign").mkdir()
    (here / "foreign" / "notes.txt").write_text("mine")
    (here / "unfinished").mkdir()
    (here / "unfinished" / RUN).write_text('{"status": "running"}')
    for name, file in (("sae", "sae_weights"), ("acts", "shard-00000"), ("atlas", "latents")):
        shutil.copytree(chain / name, here / "damaged" / name)
        (path,) = (here / "damaged" / name).glob(f"{file}.*")
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] if name == "acts" else whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.chdir(here)
    before = files(here) | files(chain)
    refused(cli(line), *words)
    assert files(here) | files(chain) == before


def test_debug_shows_where_an_error_came_from(cli: Callable, here: Path) -> None:
    for line in ("--debug run digits --sae top", "run digits --sae top --debug"):
        with pytest.raises(InputError, match="top"):
            cli(line)


def test_a_fault_of_its_own_says_so(cli: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("[bold]gears[/x] broke")

    monkeypatch.setattr(run, "execute", fails)
    ended = cli("run digits")
    assert ended.code == 1
    assert ended.err == "fault: RuntimeError: [bold]gears[/x] broke (Unweave's own; --debug shows where)\n"
    with pytest.raises(RuntimeError, match="gears"):
        cli("run digits --debug")


def test_an_interruption_says_how_to_go_on(cli: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupted)
    ended = cli("run digits")
    assert ended.code == 130
    assert ended.err == "interrupted; the same command goes on from the last checkpoint\n"


def test_a_pipe_that_is_closed_is_no_fault() -> None:
    command = f"{sys.executable} -m unweave.cli.main run digits --help | true"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
