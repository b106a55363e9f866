"""Hand-made candidates, studies of them, and a Postgres server of one's own where it is installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from unweave.study import Study, Studying, make_study
from unweave.study.drawing import Candidates

POSTGRES = Path("/usr/lib/postgresql/15/bin")


def candidates(condition: str, rates: list[float] | np.ndarray, *, side: int = 4, shown: int = 9) -> Candidates:
    """Latents 0, 1, 2, ... with these rates; rate 0 is dead. A latent's pictures are noise of its own."""
    rate = np.asarray(rates, float)

    def pictures(latent: int) -> np.ndarray:
        noise = np.random.default_rng([len(condition), latent])
        return noise.integers(0, 256, (shown, 1, side, side), np.uint8)

    return Candidates(
        condition=condition,
        source=f"source-of-{condition}",
        latent=np.arange(len(rate)),
        live=rate > 0,
        rate=rate,
        shown=np.full(len(rate), shown),
        pictures=pictures,
    )


@pytest.fixture(scope="session")
def hand_made() -> Callable[..., Candidates]:
    """`hand_made(condition, rates)`."""
    return candidates


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two conditions of four latents, two raters, two repeats: ten showings each."""
    rates = np.geomspace(0.01, 0.2, 12)
    studying = Studying(latents=4, images=9, raters=2, repeats=2, skip=2)
    return make_study([candidates("sae", rates), candidates("pca", rates)], studying, seed=3, out=tmp_path / "study")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of an empty database on a server that lives as long as the tests."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip(f"needs Postgres in {POSTGRES}")
    # Not below pytest's own folder, which nobody else may enter: Postgres does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="unweave-postgres-"))
    as_other: list[str] = []
    if os.getuid() == 0:
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("needs a user postgres: the server does not run as root")
        as_other = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", _free_port()

    def call(*command: str) -> None:
        ended = subprocess.run([*as_other, *command], capture_output=True, text=True, check=False, cwd=folder)
        assert ended.returncode == 0, ended.stderr

    control = [str(POSTGRES / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    try:
        call(str(POSTGRES / "initdb"), "-D", str(data), "-A", "trust", "-U", "rater", "--no-sync")
        call(*control, "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
        yield f"postgresql://rater@127.0.0.1:{port}/postgres"
        call(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
