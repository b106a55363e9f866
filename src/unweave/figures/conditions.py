"""A dictionary beside its controls."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, CONDITIONS, FAINT, INK, QUIET, house_style, panels


def frequencies(rates: Mapping[str, Float[np.ndarray, " d_sae"]], *, rows: int, live_share: float) -> Figure:
    """How often latents fire, as histograms over the logarithm of the rate; dead latents are counted above.

    Args:
        rates: share of rows on which each latent fires, by condition.
        rows: number of rows evaluated.
        live_share: the rate above which a latent counts as live, drawn as a line.
    """
    with house_style():
        figure, axes = panels(len(rates), width=2.6, height=2.3)
        low = np.log10(0.7 * min(1 / rows, live_share or 1))
        bins = np.linspace(low, 0, 36)
        for axis, (name, rate) in zip(axes, rates.items(), strict=True):
            fires = rate > 0
            axis.hist(
                np.log10(rate[fires]), bins=bins.tolist(), histtype="stepfilled", color=CONDITIONS.get(name, ACCENT)
            )
            if live_share > 0:
                axis.axvline(np.log10(live_share), color=INK, lw=0.8, ls=":")
            axis.set(title=name, xlabel="share of rows on which it fires", xlim=(low, 0.05))
            ticks = np.arange(np.ceil(low), 1)
            axis.set_xticks(ticks, [f"{100 * 10.0**t:g}%" for t in ticks.tolist()])
            dead = int((~fires).sum())
            axis.set_title(f"{dead} of {len(rate)} dead", loc="right", weight="normal", size=8.5, color=QUIET)
        axes[0].set_ylabel("latents")
    return figure


def selectivity(
    shares: Mapping[str, Float[np.ndarray, " m"]], information: Mapping[str, Float[np.ndarray, " m"]], *, prior: float
) -> Figure:
    """Class selectivity of live latents against the controls: share of the strongest class, and information.

    Args:
        shares: share of the most frequent class among the examples that activate a latent, by condition.
        information: information between firing and class in bits, by condition.
        prior: share of the most frequent class among all examples, drawn as a line.
    """
    with house_style():
        figure, (left, right) = panels(2, width=4.2)
        _spread(left, shares)
        left.axvline(prior, color=INK, lw=0.8, ls=":")
        left.set(title="How pure is what activates a latent?", xlabel="share of the strongest class", xlim=(0, 1.02))
        _spread(right, information)
        right.set(title="What does firing say of the class?", xlabel="information, bits", xlim=(0, None))
        right.set_yticklabels([])
    return figure


def _spread(axis: Axes, values: Mapping[str, Float[np.ndarray, " m"]]) -> None:
    """Each condition's values as a box (quartiles, 5th to 95th percentile) with its median in figures."""
    for place, (name, numbers) in enumerate(reversed(list(values.items()))):
        colour = CONDITIONS.get(name, ACCENT)
        if not len(numbers):
            continue
        low, first, median, third, high = np.percentile(numbers, [5, 25, 50, 75, 95])
        axis.plot([low, high], [place, place], color=colour, lw=1.4)
        axis.barh(place, max(third - first, 1e-6), left=first, height=0.42, color=colour, alpha=0.3)
        axis.plot(median, place, "o", color=colour, ms=6)
        axis.annotate(f"{median:.2g}", (median, place), xytext=(0, 9), textcoords="offset points", ha="center")
    axis.set_yticks(range(len(values)), list(values)[::-1])
    axis.set_ylim(-0.6, len(values) - 0.3)
    axis.grid(axis="y", visible=False)


def information_map(
    rate: Float[np.ndarray, " m"], information: Float[np.ndarray, " m"], significant: Bool[np.ndarray, " m"]
) -> Figure:
    """Information against firing rate, latent by latent; those beyond the label-permutation null are coloured."""
    with house_style():
        figure, (axis,) = panels(1, width=4.4, height=3.0)
        axis.scatter(rate[~significant], information[~significant], s=9, color=QUIET, lw=0, label="not beyond the null")
        axis.scatter(
            rate[significant],
            information[significant],
            s=9,
            color=ACCENT,
            lw=0,
            alpha=0.6,
            label="beyond the label-permutation null (q < 0.05)",
        )
        axis.set(
            title="Information of each latent",
            xscale="log" if (rate > 0).any() else "linear",
            xlabel="share of rows on which it fires",
            ylabel="bits about the class",
            ylim=(0, None),
        )
        axis.legend(fontsize=8, loc="upper left")
        axis.grid(color=FAINT)
    return figure
