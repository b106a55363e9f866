"""Figures of rating studies: what they draw, and that odd data do not stop them."""

import numpy as np
import pytest

from unweave.figures.study import Effect, RatedCondition, SimulatedRate, ratings_by_condition, simulated_tests

CONDITIONS = [
    RatedCondition(
        name="sae", histogram=np.array([0, 0, 1, 1, 0, 2, 0]), means=np.array([3.0, 4, 6, 6]), ends=(3.2, 6)
    ),
    RatedCondition(name="$random", histogram=np.array([4, 0, 0, 0, 0, 0, 0]), means=np.array([1.0, 1, 1, 1])),
]
EFFECT = Effect(name="sae − $random", d=2.5, d_ends=(1.0, 4.0), delta=1.0, delta_ends=None, p=0.01)


def test_a_row_for_each_condition_with_shares_and_a_dot_for_each_latent():
    figure = ratings_by_condition(CONDITIONS, [EFFECT])
    assert len(figure.axes) == 2 * 2 + 2
    bars = [patch.get_height() for patch in figure.axes[0].patches]
    assert bars == [0, 0, 25, 25, 0, 50, 0]
    dots = figure.axes[1].collections[0].get_offsets()
    assert sorted(map(tuple, np.asarray(dots).tolist())) == [(3, 0), (4, 0), (6, 0), (6, 1)]
    assert figure.axes[0].get_ylim() == figure.axes[2].get_ylim()
    assert figure.axes[1].get_xlim() == figure.axes[3].get_xlim()
    labels = [label.get_text() for label in figure.axes[4].get_yticklabels()]
    assert labels == ["sae − $random\np = 0.010"]


@pytest.mark.parametrize("effects", [[], [Effect(name="a", d=None, d_ends=None, delta=0, delta_ends=None, p=1)]])
def test_conditions_without_latents_and_effects_without_a_value_are_drawn(effects):
    nothing = RatedCondition(name="none", histogram=np.zeros(7, np.int64), means=np.zeros(0))
    figure = ratings_by_condition([*CONDITIONS, nothing], effects)
    figure.canvas.draw()


def test_simulated_tests_show_rates_and_curves():
    rates = [
        SimulatedRate(name="right", right=True, share=0.05, ends=(0.03, 0.07), power=0.5, studies=100),
        SimulatedRate(name="wrong", right=False, share=0.2, ends=(0.15, 0.25), power=0.8, studies=100),
    ]
    figure = simulated_tests(rates, (0.0, 1.0, 2.0), {8: (0.05, 0.3, 0.8), 16: (0.05, 0.5, 0.9)}, latents=16, effect=1)
    left, right = figure.axes
    assert left.get_xlim()[1] > 25
    assert [text.get_text() for text in left.texts] == ["5.0", "20.0"]
    assert [text.get_text() for text in right.texts] == ["8", "16"]
    figure.canvas.draw()
