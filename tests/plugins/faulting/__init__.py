"""Fault injection: stages run in processes of their own, faults are put in their way, and every outcome is counted.

As a pytest plugin it gives the fixture `tally` and a line in the summary with how many faults were tried.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

_PROPERTY = "faults"
RIGHT, ERROR = "right", "error"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`tally(RIGHT)` or `tally(ERROR)`: one more fault was tried, and ended in a right result or in one clear error."""

    def add(ended: str) -> None:
        request.node.user_properties.append((_PROPERTY, ended))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many faults were tried, workers of pytest-xdist included."""
    reports = [report for kept in terminalreporter.stats.values() for report in kept if hasattr(report, "when")]
    ended = Counter(
        value
        for report in reports
        if report.when == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == _PROPERTY
    )
    if ended:
        tried = sum(ended.values())
        terminalreporter.write_line(
            f"faults: {tried:,} tried: {ended[RIGHT]:,} right results, {ended[ERROR]:,} clear errors"
        )
