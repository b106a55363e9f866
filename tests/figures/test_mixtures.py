"""Figures of known sources: what is drawn where, and that nothing breaks on odd input."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from unweave.figures.mixtures import distributions, latent_correlations, losses, recovery, signals_over_time
from unweave.figures.style import ACCENT, QUIET, WARM


def test_losses_have_an_axis_each() -> None:
    history = {"step": [1, 2, 3], "reconstruction": [3.0, 2, 1], "penalty": [0.1, 0.2, 0.3]}
    figure = losses({"a": [history, history], "b": [history]})
    axes = figure.axes
    assert len(axes) == 4
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["a", "b"]
    drawn = {tuple(line.get_ydata()) for axis in axes for line in axis.lines}
    assert drawn == {(3, 2, 1), (0.1, 0.2, 0.3)}


def test_alike_latents_stand_together_and_constant_ones_last() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 200))
    codes = np.column_stack([first, second, np.ones(200), -first, second + 0.1 * first])
    figure = latent_correlations({"dictionary": codes}, {"dictionary": {0: "s1", 2: "s2"}})
    axis = figure.axes[0]
    drawn = np.asarray(axis.images[0].get_array())
    np.testing.assert_allclose(np.diag(drawn), [1, 1, 1, 1, 0], atol=1e-9)
    assert abs(drawn[0, 1]) > 0.9
    assert abs(drawn[2, 3]) > 0.9
    labels = [text.get_text() for text in axis.get_xticklabels()]
    assert labels[-1] == "s2"
    assert axis.get_xticks()[-1] == 4


def test_few_latents_need_no_clustering() -> None:
    figure = latent_correlations({"one": np.ones((5, 1)), "two": np.eye(5)[:, :2]}, {"one": {}, "two": {}})
    drawn = [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]
    assert [matrix.shape for matrix in drawn[:2]] == [(1, 1), (2, 2)]


def test_latents_are_drawn_on_the_scale_and_side_of_their_source() -> None:
    source = np.sin(np.linspace(0, 9, 50))[:, None] + 1
    figure = signals_over_time(source, source, -5 * source + 3, [1.0])
    truth, latent = figure.axes[2].lines
    np.testing.assert_allclose(latent.get_ydata(), truth.get_ydata(), atol=1e-9)
    still = signals_over_time(source, source, np.full_like(source, 2.0), [0.0]).axes[2].lines[1]
    np.testing.assert_allclose(still.get_ydata(), source.mean())


def test_a_column_of_histograms_for_each_group() -> None:
    values = np.arange(10.0)
    figure = distributions({"source": {"s1": values, "s2": values}, "mixture": {"x1": values}})
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]


def test_recovery_shows_dots_and_means_by_condition() -> None:
    scores = {
        "dictionary": np.array([[0.9, 0.5], [0.7, 1.0]]),
        "untrained": np.array([[0.8, 0.8]]),
        "noise": np.zeros((2, 2)),
    }
    figure = recovery(scores, ours=["dictionary"])
    first, _, mean = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["noise", "untrained", "dictionary"]
    bar, dots = first.lines[-2:]
    assert to_hex(bar.get_color()) == ACCENT
    assert bar.get_xdata()[0] == pytest.approx(0.8)
    assert sorted(dots.get_xdata()) == pytest.approx([0.7, 0.9])
    assert {to_hex(line.get_color()) for line in first.lines} == {ACCENT, WARM, QUIET}
    assert mean.lines[-2].get_xdata()[0] == pytest.approx((0.7 + 0.85) / 2)
    figure.canvas.draw()  # the scale holds at 0 and at 1
