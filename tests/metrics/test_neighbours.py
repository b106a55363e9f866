import numpy as np
import pytest

from unweave.metrics import neighbours
from unweave.metrics.neighbours import neighbours_kept

LINE = np.array([[0.0], [1], [2.5], [10], [11], [13]])


def test_by_hand():
    """Nearest two on the line: 0: {1, 2}, 3: {4, 5}. On the map 2 and 5 have changed places."""
    places = np.array([[0.0, 0], [1, 0], [13, 0], [10, 0], [11, 0], [2.5, 0]])
    assert neighbours_kept(LINE, places, 2, np.array([0])) == 0.5
    assert neighbours_kept(LINE, places, 2, np.array([0, 3])) == 0.5
    assert neighbours_kept(LINE, places, 1, np.array([0, 1, 3, 4])) == 1


def test_a_map_that_changes_nothing_keeps_all(monkeypatch):
    points = np.random.default_rng(0).normal(size=(50, 2))
    for most in (1 << 20, 100):
        monkeypatch.setattr(neighbours, "_DISTANCES", most)
        assert neighbours_kept(points, points * 3 + 1, 7, np.arange(50)) == 1


def test_random_places_keep_what_chance_keeps():
    rng = np.random.default_rng(1)
    found = neighbours_kept(rng.normal(size=(600, 5)), rng.normal(size=(600, 2)), 10, np.arange(600))
    assert found == pytest.approx(10 / 599, abs=0.004)
