"""Which is the limit, reading or the network: from times that are given, not by the clock."""

import time

import pytest

from unweave.core.waits import Waits


@pytest.mark.parametrize(("reading", "using"), [(3.0, 1.0), (1.0, 3.0)])
def test_waiting_and_using_are_told_apart(monkeypatch, reading, using):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def source():
        for number in range(4):
            now[0] += reading
            yield number

    waits = Waits(source())
    seen = []
    for one in waits:
        now[0] += using
        seen.append(one)
    assert seen == [0, 1, 2, 3]
    assert (waits.waited, waits.used) == (4 * reading, 4 * using)
    said = waits.said(32)
    if reading > using:
        assert "Reading examples was the limit (2 a second): the network waited 75 % of the time" in said
        assert "would take 8 a second" in said
    else:
        assert "The network was the limit (3 examples a second): it waited 25 %" in said


def test_what_is_over_at_once_is_not_talked_about():
    waits = Waits(range(3))
    assert list(waits) == [0, 1, 2]
    assert waits.said(3) == ""
