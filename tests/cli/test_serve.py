"""`unweave serve` with bad input, and how it ends. What it serves: tests/app."""

import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from browsing import Served

pytest.importorskip("nicegui", reason="needs the app's extra")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "nowhere does not exist; name run folders"),
        ("file.txt", "file.txt is a file; name run folders"),
        ("", "there is no folder runs/ here; name run folders, or make a run first"),
        (". --port 70000", "--port must lie from 0 to 65535, got 70000"),
        (". --port -1", "--port must lie from 0 to 65535, got -1"),
        (". --port {busy}", "Address already in use; choose another --port or --host"),
        (". --host 203.0.113.7", "cannot listen on 203.0.113.7 port 8080: Cannot assign requested address"),
        (". --token ''", "--token must not be empty; leave it out to have one made, or to need none here"),
    ],
)
def test_bad_input_is_one_line(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no run")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        done = cli(f"serve {given.format(busy=busy.getsockname()[1])}")
    assert done.code == 2
    assert said in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert not done.out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly(tmp_path: Path, sent: int) -> None:
    (tmp_path / "runs").mkdir()
    served = Served(["serve", str(tmp_path / "runs"), "--port", "0"], log=tmp_path / "log")
    with httpx.Client() as client:
        assert client.get(served.address).status_code == 200  # and keeps the connection open
        assert served.end(sent) == {signal.SIGINT: 0, signal.SIGTERM: -signal.SIGTERM}[sent]
    assert re.fullmatch(r"Unweave shows 1 folder at http://127\.0\.0\.1:\d+/\n", served.log.read_text())


def test_other_machines_need_the_token(tmp_path: Path) -> None:
    served = Served(["serve", str(tmp_path), "--port", "0", "--host", "0.0.0.0"], log=tmp_path / "log")
    try:
        token = re.search(r"\?token=(\S+)", served.log.read_text())[1]
        here = f"http://127.0.0.1:{served.port}"
        assert httpx.get(here).status_code == 401
        assert httpx.get(f"{here}/?token=wrong").status_code == 401
        with httpx.Client(follow_redirects=True) as client:
            assert client.get(f"{here}/?token={token}").status_code == 200
            assert client.get(f"{here}/api/runs").status_code == 200
        assert "0.0.0.0" not in served.log.read_text(), "an address that can be opened"
    finally:
        served.end()
