"""Pictures, maps, histograms and matrices: what is on them, and that odd input does not break them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.geometry import agreement, matrices
from unweave.figures.importance import importance_histograms
from unweave.figures.pictures import as_bytes, class_pictures, picture_grid, picture_maps, stretched


def _texts(figure: Figure) -> set[str]:
    return {text.get_text() for axis in figure.axes for text in axis.texts}


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).random((5, 1, 4, 4))


def test_bytes_of_grey_and_coloured_pictures() -> None:
    grey = as_bytes(np.array([[[[0.0, 1.0], [0.5, 2.0]]]]))
    assert grey.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(grey[0, :, :, 1], [[0, 255], [128, 255]])
    assert as_bytes(np.zeros((1, 3, 2, 2))).shape == (1, 2, 2, 3)


def test_stretching_uses_each_pictures_own_range() -> None:
    flat, ramp = np.full((1, 1, 2, 2), 0.3), np.array([[[[0.1, 0.2], [0.2, 0.3]]]])
    out = stretched(np.concatenate([flat, ramp]))
    np.testing.assert_allclose(out[0], 0)
    np.testing.assert_allclose(out[1, 0], [[0, 0.5], [0.5, 1]])


def test_a_grid_labels_every_picture(pictures: np.ndarray) -> None:
    figure = picture_grid(pictures, list("abcde"), columns=2)
    assert _texts(figure) == set("abcde")
    assert len(figure.axes[0].images) == 5


@pytest.mark.parametrize("spread", [0.0, 1.0, 1e6])
def test_maps_keep_every_picture_inside(pictures: np.ndarray, spread: float) -> None:
    points = spread * np.random.default_rng(1).normal(size=(5, 2))
    figure = picture_maps({"one": points, "other": -points}, pictures, list("abcde"))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["one", "other"]
    for axis in figure.axes:
        for image in axis.images:
            left, right, bottom, top = image.get_extent()
            assert 0 <= left < right <= 1.0000001
            assert 0 <= bottom < top <= 1.0000001


def test_class_pictures_frame_what_was_read(pictures: np.ndarray) -> None:
    read = {"ours": np.array([True, False, True, False, False])}
    figure = class_pictures({"mean": pictures, "ours": pictures}, read, list("abcde"))
    assert "2 of 5" in _texts(figure)
    assert len(figure.axes[0].patches) == 2


def test_histograms_have_a_panel_for_each_class() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(20), size=6)
    figure = importance_histograms({"ours": shares, "theirs": shares**2}, list("abcdef"))
    drawn = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in drawn] == list("abcdef")


def test_matrices_and_agreement_draw_what_they_are_given() -> None:
    distances = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    figure = matrices({"a": distances, "b": distances * 0}, [str(i) for i in range(6)])
    assert len([axis for axis in figure.axes if axis.images]) == 2
    pairs = distances[np.triu_indices(6, 1)]
    figure = agreement(pairs, {"a": pairs, "b": -pairs}, {"a": "r = 1", "b": "r = -1"}, axis_names=("x", "y"))
    assert _texts(figure) == {"r = 1", "r = -1"}
