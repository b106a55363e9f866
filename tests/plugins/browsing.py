"""A real browser for tests, the commands that serve pages, and one visitor who notices every fault of a page."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest
from forking import fork as fork_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE_SECONDS = 120


def chromium() -> Path | None:
    """The browser: what UNWEAVE_CHROMIUM names, or what is installed; None where there is none."""
    named = os.environ.get("UNWEAVE_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    return Path(found) if found and Path(found).exists() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none."""
    if chromium() is None:
        reason = "needs headless Chromium: install it, or let UNWEAVE_CHROMIUM name it"
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser's program."""
    found = chromium()
    assert found is not None, "tests that ask for it have the marker browser"
    return found


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> "Iterator[Browser]":
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(chromium_path), args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """One person at one browser, with everything that went wrong on the way.

    Attributes:
        faults: messages of the console, errors of scripts, requests that failed or were refused, and dialogs.
        frames: what came over the web socket.
    """

    def __init__(self, browser: "Browser", **options: Any) -> None:
        self.faults: list[str] = []
        self.frames: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **options})
        self.page = self.open()

    def open(self, address: str | None = None) -> "Page":
        """Another page, which becomes the one that is looked at."""
        page = self.page = self.context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("response", lambda answer: self.faults.append(answer.url) if answer.status >= 400 else None)
        page.on("dialog", self._dialog)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: self.frames.append(str(frame))))
        if address is not None:
            page.goto(address)
        return page

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page that is left drops what it was still loading
            self.faults.append(f"{request.url}: {request.failure}")

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def close(self) -> None:
        """Leave."""
        self.context.close()


class Served:
    """A command that serves, in a process of its own.

    Args:
        arguments: of `unweave`.
        log: where its output goes.
        ready: a pattern of what it says last before it listens.
        fork: a fork of a process that has everything loaded and done nothing yet: quicker than a new one.
    """

    def __init__(self, arguments: Sequence[str], *, log: Path, ready: str = r"http://\S+", fork: bool = False) -> None:
        self.log, self.ended = log, False
        log.write_text("")
        with _not_in_a_test():
            self._process = fork_of(_run, str(log), list(arguments)) if fork else _started(arguments, log)
        self.pid = self._process.pid
        self._wait_for(lambda: re.search(ready, log.read_text()) is not None)
        self.address, self.port = re.search(r"(http://[^/\s]+:(\d+))", log.read_text()).groups()
        self._wait_for(self._answers)

    def _wait_for(self, arrived: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not arrived():
            self.ended = self._code() is not None
            if self.ended or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {self.log.read_text()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            httpx.get(self.address, timeout=5)
        except httpx.TransportError:
            return False
        return True

    def end(self, sent: int = signal.SIGTERM) -> int | None:
        """Stop it; its exit code, negative for the signal that killed it."""
        if self.ended:
            return None
        os.kill(self.pid, sent)
        self.ended = True
        wait = self._process.wait if isinstance(self._process, subprocess.Popen) else self._process.join
        wait(_PATIENCE_SECONDS)
        return self._code()

    def _code(self) -> int | None:
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode


@contextmanager
def _not_in_a_test() -> Iterator[None]:
    """Inside the block nothing says that a test is running: NiceGUI behaves otherwise where it is said."""
    said = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        yield
    finally:
        if said is not None:
            os.environ["PYTEST_CURRENT_TEST"] = said


def _started(arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("w") as file:
        command = [sys.executable, "-m", "unweave.cli.main", *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _run(log: str, arguments: Sequence[str]) -> NoReturn:
    """What a forked process does."""
    from unweave.cli.main import main

    file = Path(log).open("w", buffering=1)  # noqa: SIM115 - the process ends with it
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    sys.stdout = sys.stderr = file
    os._exit(main(arguments))
