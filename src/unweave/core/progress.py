"""Progress of long work: a rich bar with rate and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from unweave.core.distributed import ranks

_PLAIN_EVERY_SECONDS = 30.0


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "", style="cyan")


class Bar:
    """One piece of work under way; `advance` moves it on and may show numbers beside it."""

    def __init__(self, label: str, total: int | None, unit: str, console: Console) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._console = console
        self._started = self._last = time.monotonic()
        self._numbers = ""
        self._rich: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._rich = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[numbers]}", style="dim", markup=False),
                console=console,
                speed_estimate_period=10.0,
            )
            self._task = self._rich.add_task(label, total=total, unit=unit, numbers="")

    def advance(self, amount: int = 1, **numbers: float) -> None:
        """Move on by `amount` units; keyword numbers are shown as they are now."""
        self.done += amount
        if numbers:
            self._numbers = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._rich is not None:
            self._rich.update(self._task, advance=amount, numbers=self._numbers)
        elif (now := time.monotonic()) - self._last > _PLAIN_EVERY_SECONDS:
            self._last = now
            self._line(f"{self.done:,}" + (f" of {self.total:,}" if self.total else ""))

    def _line(self, amount: str) -> None:
        seconds = time.monotonic() - self._started
        rate = f" ({self.done / seconds:,.0f} {self.unit}/s)" if seconds > 1 else ""
        numbers = f"  {self._numbers}" if self._numbers else ""
        line = f"{self.label}: {amount} {self.unit} in {seconds:.1f} s{rate}{numbers}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "Bar":
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif not failed:
            self._line(f"{self.done:,}")


_enabled = True


@contextmanager
def silenced() -> Iterator[None]:
    """Show no progress inside the block."""
    global _enabled  # noqa: PLW0603 - what is shown is the one thing that is a process's own
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def progress(label: str, *, total: int | None, unit: str, quiet: bool = False) -> Bar:
    """A bar for `total` units of work, on standard error so that results can be piped; `quiet` shows none.

    Of several processes, rank 0 alone shows one.
    """
    return Bar(label, total, unit, Console(stderr=True, quiet=quiet or not _enabled or not ranks().first))


def say(line: str) -> None:
    """A line on standard error, where progress is shown."""
    console = Console(stderr=True, quiet=not _enabled or not ranks().first)
    console.print(line, highlight=False, markup=False, soft_wrap=True)
