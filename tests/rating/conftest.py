"""A study whose two conditions differ as much as pictures can, and a server of it in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import numpy as np
import pytest

from unweave.cli.main import main
from unweave.study import Study, Studying, make_study
from unweave.study.drawing import Candidates

# Words that stand nowhere in a page by chance.
BLACK, NOISE = "nachtschwarz", "rauschbunt"
SMALL = Studying(latents=4, images=4, raters=3, repeats=2, skip=0)


def make(folder: Path, studying: Studying = SMALL) -> Study:
    """All-black grids against noise."""

    def condition(name: str, high: int) -> Candidates:
        def pictures(latent: int) -> np.ndarray:
            return np.random.default_rng(latent).integers(0, high, (4, 1, 28, 28), np.uint8)

        rate = np.geomspace(0.01, 0.2, studying.latents * 2)
        return Candidates(
            condition=name,
            source=name,
            latent=np.arange(len(rate)),
            live=rate > 0,
            rate=rate,
            shown=np.full(len(rate), 4),
            pictures=pictures,
        )

    return make_study([condition(BLACK, 1), condition(NOISE, 256)], studying, seed=1, out=folder)


class Server:
    """`unweave study serve`: a fork of this process, which has everything loaded, or as a user starts it."""

    def __init__(self, study: Path, *, port: int = 0, fork: bool = True) -> None:
        self.log = study.parent / "serve.log"
        self.log.write_text("")
        arguments = ["study", "serve", str(study), "--port", str(port)]
        if fork:
            self.pid = os.fork()
            if not self.pid:
                _run(self.log, arguments)
        else:
            environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
            with self.log.open("w") as log:
                command = [sys.executable, "-m", "unweave.cli.main", *arguments]
                self.pid = subprocess.Popen(command, stdout=log, stderr=log, env=environment).pid
        self.ended = False
        self.links = self._links()
        self.address, self.port = re.match(r"(http://[^/]+:(\d+))/", self.links["rater-1"]).groups()
        self._wait_for_answer()

    def _links(self) -> dict[str, str]:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            said = self.log.read_text()
            if "Ctrl-C" in said:
                return dict(re.findall(r"^(rater-\d+): (\S+)$", said, re.MULTILINE))
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(self.address, timeout=5)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the server does not answer: {self.log.read_text()}")

    def token(self, rater: str) -> str:
        return self.links[rater].rpartition("/")[2]

    def api(self, rater: str) -> str:
        return f"{self.address}/api/{self.token(rater)}"

    def end(self, sent: int = signal.SIGTERM) -> None:
        if not self.ended:
            os.kill(self.pid, sent)
            os.waitpid(self.pid, 0)
            self.ended = True


def _run(log: Path, arguments: list[str]) -> NoReturn:
    """What the forked process does, which must never come back into pytest."""
    try:
        file = log.open("w", buffering=1)
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        os.environ.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI behaves otherwise where it is set
        os._exit(main(arguments))
    finally:
        os._exit(1)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Eight items, three raters, ten showings each."""
    return make(tmp_path / "study")


@pytest.fixture
def new_study() -> Callable[..., Study]:
    """`new_study(folder, studying)`."""
    return make


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """`serving(folder, ...)` starts a server, which ends with the test."""
    started: list[Server] = []

    def start(study: Path, **more: Any) -> Server:
        started.append(Server(study, **more))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a file that leave no marks on each other."""
    study = make(tmp_path_factory.mktemp("served") / "study")
    made = Server(study.folder)
    yield made
    made.end()
