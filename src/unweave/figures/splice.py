"""What a model loses when something else takes the place of a layer's rows."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import CONDITIONS, INK, QUIET, house_style, panels


def splice_figure(cross_entropy: Mapping[str, float], accuracy: Mapping[str, float]) -> Figure:
    """Cross-entropy and accuracy of a model, with one thing after the other in place of a layer's rows.

    Args:
        cross_entropy: in nats, by what stands in place of the rows, from top to bottom; the first is the model itself,
            whose numbers are drawn as lines.
        accuracy: shares, by the same names.
    """
    names = list(cross_entropy)
    with house_style():
        figure, (left, right) = panels(2, width=4.4, height=0.8 + 0.3 * len(names))
        _bars(left, cross_entropy, "{:.3f}")
        left.set(title="Cross-entropy", xlabel="nats; further left is better")
        _bars(right, {name: 100 * value for name, value in accuracy.items()}, "{:.1f} %")
        right.set(title="Accuracy", xlabel="%")
        right.set_yticklabels([])
    return figure


def _bars(axis: Axes, values: Mapping[str, float], form: str) -> None:
    names, numbers = list(values), np.asarray(list(values.values()))
    place = np.arange(len(names))[::-1]
    colours = [INK if not index else CONDITIONS.get(name, QUIET) for index, name in enumerate(names)]
    axis.barh(place, numbers, height=0.62, color=colours)
    axis.axvline(numbers[0], color=INK, lw=0.8, ls=":")
    for y, number in zip(place, numbers, strict=True):
        axis.annotate(
            form.format(number), (number, y), xytext=(4, 0), textcoords="offset points", va="center", size=8.5
        )
    axis.set_yticks(place, names)
    axis.set_xlim(0, 1.22 * max(float(np.nanmax(numbers)), 1e-12))
    axis.grid(axis="y", visible=False)
