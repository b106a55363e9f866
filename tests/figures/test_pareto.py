import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.pareto import Curve, pareto

NAN = float("nan")


def curve(*settings: list[tuple[float, float, float]], labels: tuple[str, ...] = ()) -> Curve:
    return Curve.of(settings, labels)


def lines(figure: Figure, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The lines of a name, on the left axis and on the right."""
    return [
        (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for axis in figure.axes
        for line in axis.lines
        if line.get_label() == name
    ]


def test_settings_lie_by_rising_l0_with_their_labels() -> None:
    found = curve([(9.0, 0.9, 0.1)], [(3.0, 0.5, 0.0), (5.0, 0.6, 0.0)], labels=("k=9", "k=4"))
    np.testing.assert_equal(found.l0, [[3, 5], [9, NAN]])
    np.testing.assert_equal(found.explained, [[0.5, 0.6], [0.9, NAN]])
    np.testing.assert_equal(found.dead, [[0, 0], [0.1, NAN]])
    assert found.labels == ("k=4", "k=9")


def test_a_line_runs_through_the_means() -> None:
    figure = pareto({"topk": curve([(4, 0.9, 0.2), (5, 0.98, 0.4)], [(8, 0.99, 0.1)])}, {})
    (x, y), (_, dead) = lines(figure, "topk")
    np.testing.assert_allclose(x, [4.5, 8])
    np.testing.assert_allclose(y, [0.94, 0.99])
    np.testing.assert_allclose(dead, [30, 10])


def test_the_scale_is_one_of_nines() -> None:
    """From 90 to 99 % is as far as from 99 to 99.9 %."""
    axis = pareto({"topk": curve([(4, 0.9, 0.2)], [(8, 0.999, 0.1)])}, {}).axes[0]
    place = axis.transData.transform([(4, share) for share in (0.9, 0.99, 0.999)])[:, 1]
    assert place[1] - place[0] == pytest.approx(place[2] - place[1])
    assert [tick.get_text() for tick in axis.get_yticklabels()][:2] == ["90 %", "95 %"]


def test_every_seed_is_a_dot() -> None:
    figure = pareto({"topk": curve([(4, 0.9, 0.2), (5, 0.91, 0.4)])}, {})
    dots = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(np.concatenate([line.get_xdata() for line in dots])) == [4, 5]


def test_controls_are_on_the_left_only() -> None:
    controls = {"pca": curve([(4, 0.8, NAN)], [(8, 0.9, NAN)]), "random": curve([(4, -0.3, NAN)], [(8, 0.1, NAN)])}
    figure = pareto({"topk": curve([(4, 0.95, 0.0)], [(8, 0.97, 0.0)])}, controls)
    assert [len(lines(figure, name)) for name in ("topk", "pca", "random")] == [2, 1, 1]
    low, high = figure.axes[0].get_ylim()
    assert low < -0.3
    assert high > 0.97


def test_a_control_far_above_does_not_flatten_the_rest() -> None:
    ours = curve([(4, 0.9, 0.0)], [(16, 0.95, 0.0)])
    figure = pareto({"topk": ours}, {"pca": curve([(4, 0.99, NAN)], [(16, 1.0, NAN)])})
    assert figure.axes[0].get_ylim()[1] < 0.98


@pytest.mark.parametrize("explained", [-5.0, 0.0, 0.5, 1.0])
def test_one_dictionary_is_a_figure(explained: float, tmp_path) -> None:
    figure = pareto({"$x": curve([(1.0, explained, 0.0)], labels=("$y^",))}, {}, rows="training rows")
    figure.savefig(tmp_path / "one.svg")  # all of the variance has a finite place too
    assert "training rows" in (tmp_path / "one.svg").read_text()


def test_many_lines_are_told_apart() -> None:
    many = {f"topk d_sae={n}": curve([(4, 0.9, 0.0)], [(8, 0.95, 0.0)]) for n in range(20)}
    figure = pareto(many, {})
    looks = {(str(line.get_color()), str(line.get_linestyle())) for line in figure.axes[0].lines}
    assert len(looks) == 20


def test_what_others_report_is_a_diamond_with_its_name() -> None:
    curve = Curve.of([[(4.0, 0.9, 0.1)], [(8.0, 0.95, 0.0)]], ["k=4", "k=8"])
    figure = pareto({"topk": curve}, {}, {"a paper": (30.0, 0.97)})
    left = figure.axes[0]
    assert "a paper" in {text.get_text() for text in left.texts}
    assert left.get_xlim()[1] > 30
    assert [line.get_xdata().tolist() for line in left.lines if line.get_marker() == "D"] == [[30.0]]
