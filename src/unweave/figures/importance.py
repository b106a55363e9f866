"""Over how many latents a reconstruction is spread."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, INK, QUIET, WARM, house_style

_MOST_SHOWN = 99  # percentile: a few latents would squeeze all others into a corner


def importance_histograms(
    shares: Mapping[str, Float[np.ndarray, "c m"]], names: Sequence[str], *, columns: int = 4, bins: int = 100
) -> Figure:
    """How many latents have how much of the importance, class by class; the last bin holds all that is beyond it.

    Args:
        shares: importance of each latent as a share of all latents', by how it was computed; the first is the accent.
        names: of the classes, one for each row of `shares`.
        columns: panels side by side.
        bins: of a histogram.
    """
    rows = -(-len(names) // columns)
    colours = dict(zip(shares, (ACCENT, WARM, QUIET), strict=False))
    with house_style():
        figure = Figure(figsize=(2.35 * columns, 1.55 * rows + 0.35))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        everything = np.concatenate([values.ravel() for values in shares.values()])
        low, high = min(0.0, float(everything.min())), float(np.percentile(everything, _MOST_SHOWN))
        edges = np.linspace(low, high, bins + 1).tolist()
        for index, axis in enumerate(axes.flat):
            if index >= len(names):
                axis.set_axis_off()
                continue
            for label, values in shares.items():
                axis.hist(
                    np.minimum(values[index], high), bins=edges, histtype="stepfilled", alpha=0.55, color=colours[label]
                )
                axis.axvline(float(np.percentile(values[index], 90)), color=colours[label], lw=0.8, ls="--")
            axis.axvline(1 / values.shape[1], color=INK, lw=0.8, ls=":")
            axis.set_title(names[index], size=8.5)
            axis.set_xlim(low, high)
            axis.tick_params(labelsize=7)
            axis.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        handles = [axes.flat[0].plot([], [], color=colour, lw=1.4, label=label)[0] for label, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8)
        figure.supxlabel("share of a class's importance", size=8.5)
        figure.supylabel("latents", size=8.5)
    return figure
