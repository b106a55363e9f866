"""How much of a model's answers is left when something else stands in place of a layer's rows."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import CONDITIONS, QUIET, house_style, panels


def kept_figure(explained: Mapping[str, float], agreement: Mapping[str, float] | None) -> Figure:
    """Share of the answers' variance that is kept, and share of examples that keep their answer.

    Args:
        explained: 1 where nothing changes, 0 where the mean answer would do, below where it is worse; from top to
            bottom by what stands in place of the rows.
        agreement: shares of examples, by the same names; None where answers are no choice between classes.
    """
    with house_style():
        count = 1 if agreement is None else 2
        figure, axes = panels(count, width=4.6, height=0.8 + 0.3 * len(explained))
        _bars(axes[0], {name: 100 * value for name, value in explained.items()})
        axes[0].set(title="Answers kept", xlabel="% of their variance; further right is better")
        if agreement is not None:
            _bars(axes[1], {name: 100 * value for name, value in agreement.items()})
            axes[1].set(title="Same answer as before", xlabel="% of examples")
            axes[1].set_yticklabels([])
    return figure


def _bars(axis: Axes, values: Mapping[str, float]) -> None:
    names, numbers = list(values), np.asarray(list(values.values())).round(1) + 0.0  # no minus before a zero
    place = np.arange(len(names))[::-1]
    shown = np.clip(numbers, -100, 100)  # far below 0 a number says enough
    axis.barh(place, shown, height=0.62, color=[CONDITIONS.get(name, QUIET) for name in names])
    axis.axvline(100, color=QUIET, lw=0.8, ls=":")
    axis.axvline(0, color=QUIET, lw=0.8)
    for y, number, end in zip(place, numbers, shown, strict=True):
        text = f"{number:.1f} %" if number > -100 else f"{number:.0f} %"
        axis.annotate(text, (max(end, 0), y), xytext=(4, 0), textcoords="offset points", va="center", size=8.5)
    axis.set_yticks(place, names)
    axis.set_xlim(min(0.0, float(shown.min()) * 1.05), 125)
    axis.grid(axis="y", visible=False)
