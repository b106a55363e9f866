import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from forking import Program
from torch import distributed as dist

Start = Callable[..., list[Program]]
_TIMEOUT_SECONDS = 240


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory):
    """Starts processes of one job, as torchrun would; their store is the test's own, so that no port is agreed upon."""
    started, stores, numbers, said = [], [], itertools.count(), tmp_path_factory.mktemp("said")

    def begin(size: int, *command: object, **environment: str) -> list[Program]:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        stores.append(store)
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "WORLD_SIZE": str(size),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        job = next(numbers)
        now = [
            Program(
                list(map(str, command)),
                {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                said,
                f"{job}.{rank}",
            )
            for rank in range(size)
        ]
        started.extend(now)
        return now

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start):
    """Runs such processes to their end; their exit codes and what each wrote to standard error."""

    def to_the_end(size: int, *command: object, **environment: str) -> list[tuple[int, str]]:
        processes = start(size, *command, **environment)
        said = [process.communicate(timeout=_TIMEOUT_SECONDS)[1] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]

    return to_the_end


@pytest.fixture
def script(tmp_path: Path):
    """A program of the test's own."""

    def written(text: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(text)
        return path

    return written
