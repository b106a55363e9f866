"""What a conformance suite says: each check holds, fails, or does not apply."""

import time
import traceback
import unittest
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar

S = TypeVar("S")


class NotClaimedError(unittest.SkipTest):
    """A check does not apply, because what it proves is not claimed; pytest and unittest count it as skipped."""


def expect(holds: bool, otherwise: str) -> None:
    """Go on where something holds.

    Raises:
        AssertionError: it does not; the message is `otherwise`. Unlike an `assert`, it stays under `python -O`.
    """
    if not holds:
        raise AssertionError(otherwise)


def not_claimed(why: str) -> NoReturn:
    """Leave a check that does not apply.

    Raises:
        NotClaimedError: always.
    """
    raise NotClaimedError(why)


@dataclass(frozen=True)
class Result:
    """What became of one check, with the reason where it does not hold, and the seconds it took."""

    check: str
    outcome: Literal["holds", "fails", "not claimed"]
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """The results of a suite; its text is meant to be read."""

    subject: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The results that fail."""
        return tuple(result for result in self.results if result.outcome == "fails")

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.failures)} of {len(self.results)} checks fail"]
        for result in self.results:
            lines.append(f"  {result.outcome:11} {result.check} ({result.seconds:.2f} s)")
            lines.extend(f"      {line}" for line in result.message.splitlines())
        return "\n".join(lines)


class ConformanceError(AssertionError):
    """Something does not conform; the message is the report, which also is its attribute `report`."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def name_of(check: Callable[..., None]) -> str:
    """A check's name as reports and pytest show it."""
    return check.__name__.removeprefix("check_").replace("_", "-")


def run_checks(name: str, subject: S, checks: Iterable[Callable[[S], None]]) -> Report:
    """Run all checks on a subject, whatever becomes of the ones before.

    Raises:
        ConformanceError: at least one fails.
    """
    results = []
    for check in checks:
        started = time.monotonic()
        outcome, message = _outcome(check, subject)
        results.append(Result(name_of(check), outcome, message, time.monotonic() - started))
    report = Report(name, tuple(results))
    if report.failures:
        raise ConformanceError(report)
    return report


def _outcome(check: Callable[[S], None], subject: S) -> tuple[Literal["holds", "fails", "not claimed"], str]:
    """What becomes of one check; whatever else it raises is the subject's crash, and so a failure."""
    try:
        check(subject)
    except NotClaimedError as reason:
        return "not claimed", str(reason)
    except Exception as error:
        if isinstance(error, AssertionError) and str(error):
            return "fails", str(error)
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "fails", f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    return "holds", ""
