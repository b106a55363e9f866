"""Two launchers that know of each other, as on two machines; here both are on this one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from unweave.store.artifact import MANIFEST

_TIMEOUT_SECONDS = 240


def _on_two_nodes(rendezvous: str, *command: object) -> list[tuple[int, str]]:
    """Exit codes of the launchers, and what each node said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {
        "static": ["--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", port],
        "c10d": ["--rdzv-backend", "c10d", "--rdzv-id", "17", "--rdzv-endpoint", f"localhost:{port}"],
    }
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)),
                *("--nproc-per-node", "1", *map(str, places[rendezvous]), "-m", "unweave", *map(str, command)),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=_TIMEOUT_SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_two_nodes_capture_train_and_sweep_together(tmp_path: Path, rendezvous: str) -> None:
    rows, sae, swept = tmp_path / "rows", tmp_path / "sae", tmp_path / "swept"
    small = ("--sae.d-sae", 16, "--training.epochs", 1)
    for command in (
        ("capture", "--at", "fc1", "--out", rows),
        ("train", rows, "--out", sae, "--sae.k", 2, *small),
        ("sweep", "--stream", "--at", "fc1", "--out", swept, "--sae.k", "1,2", *small),
    ):
        ended = _on_two_nodes(rendezvous, *command)
        assert [code for code, _ in ended] == [0, 0], ended
    assert (rows / MANIFEST).is_file()
    assert (sae / MANIFEST).is_file()
    assert (swept / "report.html").is_file()
