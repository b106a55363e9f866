"""The command line in this process, and a folder in which every command has left its artifact."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from unweave.cli.main import main
from unweave.core.progress import silenced


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[[str], Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line and give exit code and output."""

    def run(line: str) -> Ended:
        capsys.readouterr()
        code = main(shlex.split(line))
        return Ended(code, *capsys.readouterr())

    return run


CHAIN = (
    "run digits --out run --fit.epochs 1 --training.epochs 2 --analysis.permutations 9",
    "capture --at fc2 --out acts",
    "capture --at fc2 --split test --out heldout",
    "train acts --sae.d-sae 32 --sae.k=4 --training.epochs 2 --out sae",
    "analyze sae heldout --data digits --analysis.permutations 9 --out atlas",
    "report atlas",
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command was run once, on digits; no test may change what is in it."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch, silenced():
        patch.chdir(folder)
        for line in CHAIN:
            assert main(shlex.split(line)) == 0, line
    return folder


@pytest.fixture
def chain(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(here: Path) -> Path:
    """A folder of images in two classes, below the current one."""
    noise = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (here / "data" / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            pixels = noise.integers(low, low + 100, (9, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "data" / "pictures" / name / f"{number}.png")
    return here / "data" / "pictures"
