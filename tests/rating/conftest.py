"""A study whose two conditions differ as much as pictures can, and a server of it in a process of its own."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Served

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


class Server(Served):
    """`unweave study serve`: in a fork of a process that has everything loaded, or as a user starts it."""

    def __init__(self, study: Path, *, port: int = 0, fork: bool = True) -> None:
        arguments = ["study", "serve", str(study), "--port", str(port)]
        super().__init__(arguments, log=study.parent / "serve.log", ready="Ctrl-C", fork=fork)
        self.links: dict[str, str] = dict(re.findall(r"^(rater-\d+): (\S+)$", self.log.read_text(), re.MULTILINE))

    def token(self, rater: str) -> str:
        return self.links[rater].rpartition("/")[2]

    def api(self, rater: str) -> str:
        return f"{self.address}/api/{self.token(rater)}"


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
