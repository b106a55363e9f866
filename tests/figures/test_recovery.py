"""Kinds beside each other: a row each, a panel for each metric."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from unweave.figures.recovery import Column, Line, along_penalty, recovery_by_kind
from unweave.figures.style import ACCENT, WARM

COLUMNS = [Column("mcc", "MCC", (0, 1), reference=0.3), Column("l0", "L0", (0.5, 16), log=True)]


def line(name: str, *, trained: bool = True, mcc: tuple[float, ...] = (0.8, 0.9)) -> Line:
    values = {"mcc": np.array(mcc), "l0": np.full(len(mcc), 4.0)}
    return Line(name, trained, values, {"mcc": (0.7, 1.2), "l0": (np.nan, np.nan)})


def test_kinds_stand_in_their_order_with_a_gap_between_groups() -> None:
    groups = {"any": [line("topk"), line("pca", trained=False)], "non-negative": [line("nmf", trained=False)]}
    figure = recovery_by_kind(groups, COLUMNS)
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["topk", "pca", "nmf"]
    places = first.get_yticks()
    assert places[1] - places[0] == 1
    assert places[2] - places[1] > 2
    assert [text.get_text() for text in first.texts] == ["non-negative"]
    reference, interval, dots, mean = first.lines[:4]
    assert reference.get_xdata()[0] == 0.3
    assert list(interval.get_xdata()) == [0.7, 1.0]  # cut off at the end of the scale
    assert sorted(dots.get_xdata()) == [0.8, 0.9]
    assert mean.get_xdata()[0] == pytest.approx(0.85)
    assert {to_hex(one.get_color()) for one in first.lines[1:]} == {ACCENT, WARM}
    assert len(second.lines) == 6  # no reference, no intervals: dots and means
    figure.canvas.draw()


def test_a_kind_without_a_metric_leaves_its_place_empty() -> None:
    figure = recovery_by_kind({"any": [Line("broken", False, {}, {}), line("topk")]}, COLUMNS[:1])
    assert len(figure.axes[0].lines) == 4


def test_penalties_are_drawn_along_l0_with_a_ring_at_the_choice() -> None:
    curves = {"relu": np.array([[8.0, 0.9, 0.8], [2.0, 0.5, 0.1], [4.0, 0.7, 0.4]]), "gelu": np.array([[0.0, 0.2, 0]])}
    figure = along_penalty(curves, {"relu": 2, "gelu": 0}, 4.0)
    curve, ring = figure.axes[0].lines[1:3]
    assert list(curve.get_xdata()) == [2, 4, 8]
    assert list(curve.get_ydata()) == [0.5, 0.7, 0.9]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (4, 0.7)
    figure.canvas.draw()
