"""One look for every figure: a palette that holds on paper and screen, quiet axes, one font size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#24292f"
QUIET = "#8b949e"
FAINT = "#d8dee4"
ACCENT = "#1f6feb"
WARM = "#d1570b"

# Okabe and Ito's colours, told apart with any colour vision; the dictionary itself is always the accent.
CONDITIONS = {
    "dictionary": ACCENT,
    "neurons": "#d1570b",
    "pca": "#0a8f6c",
    "random": "#8b949e",
    "untrained": "#8250df",
}
_STYLE: dict[Any, object] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "unweave",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside the block in the house's look, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def panels(columns: int, *, width: float = 3.6, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side (inches a panel); not known to pyplot, so nothing has to be closed."""
    figure = Figure(figsize=(width * columns, height))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)
