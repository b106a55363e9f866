"""Known sources, their mixtures, and what dictionaries made of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from unweave.figures.style import ACCENT, FAINT, INK, QUIET, WARM, house_style, panels

_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
_HIGHEST = 0.9995  # of what is shown: at 1 the scale has no end
_LOSSES = {"reconstruction": ("squared error", ACCENT), "penalty": ("penalty", WARM)}


def losses(histories: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Figure:
    """Squared error and penalty over training on two axes: a faint line for each dictionary, a strong one for the mean.

    Args:
        histories: by kind, for each dictionary its columns `step`, `reconstruction` and `penalty`.
    """
    with house_style():
        figure, axes = panels(len(histories), width=4.4, height=2.9)
        for axis, (name, of_kind) in zip(axes, histories.items(), strict=True):
            step = np.asarray(of_kind[0]["step"])
            right = axis.twinx()
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
            for on, part in ((axis, "reconstruction"), (right, "penalty")):
                label, colour = _LOSSES[part]
                values = np.array([history[part] for history in of_kind])
                on.plot(step, values.T, color=colour, lw=0.6, alpha=0.35)
                on.plot(step, values.mean(0), color=colour, lw=2)
                on.set_ylabel(label, color=colour)
                on.tick_params(axis="y", labelcolor=colour)
                on.set_ylim(0, 1.05 * float(values.max()))
            axis.set(title=name, xlabel="step", xlim=(0, step[-1]))
    return figure


def latent_correlations(
    codes: Mapping[str, Float[np.ndarray, "n _"]], matched: Mapping[str, Mapping[int, str]]
) -> Figure:
    """Correlations of latents with each other, alike ones side by side; those matched with a source carry its name.

    The order is that of a clustering by 1 − |r| (average linkage, optimal leaf order). Latents that do not vary come
    last, with r drawn as 0.

    Args:
        codes: codes of rows, by kind.
        matched: by kind, name of the source of each matched latent.
    """
    with house_style():
        figure = Figure(figsize=(2.75 * len(codes) + 0.7, 3.1))
        axes = figure.subplots(1, len(codes), squeeze=False)[0]
        image = None
        for axis, (name, of_kind) in zip(axes, codes.items(), strict=True):
            r = _correlations(of_kind)
            order = _order(r)
            image = axis.imshow(r[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            named = {place: matched[name][j] for place, j in enumerate(order.tolist()) if j in matched[name]}
            axis.set_xticks(list(named), named.values())
            axis.set_yticks(list(named), named.values())
            axis.tick_params(length=3)
            axis.set_title(name)
            axis.grid(visible=False)
            for spine in axis.spines.values():
                spine.set_visible(True)
        assert image is not None
        bar = figure.colorbar(image, ax=axes.tolist(), shrink=0.85, pad=0.02, ticks=[-1, 0, 1])
        bar.set_label("correlation of codes")
    return figure


def signals_over_time(
    sources: Float[np.ndarray, "n n_sources"],
    mixtures: Float[np.ndarray, "n d_in"],
    latents: Float[np.ndarray, "n n_sources"],
    scores: Sequence[float],
) -> Figure:
    """Sources, what is observed of them, and the matched latents drawn over the sources, all over time.

    Args:
        sources: the truth.
        mixtures: the rows.
        latents: codes of the latent that is matched with each source; drawn at the source's mean and spread, with the
            sign of their correlation.
        scores: size of the correlation of each with its source.
    """
    count = sources.shape[1]
    with house_style():
        figure = Figure(figsize=(7.6, 1.25 * (count + 2)))
        axes = figure.subplots(count + 2, 1, sharex=True)
        for j, colour in zip(range(count), _colours(count), strict=True):
            axes[0].plot(sources[:, j], color=colour, label=f"s{j + 1}")
        for j, style in zip(range(mixtures.shape[1]), ("-", "--", ":", "-.") * mixtures.shape[1], strict=False):
            axes[1].plot(mixtures[:, j], color=INK, ls=style, lw=1.1, label=f"x{j + 1}")
        axes[0].set_title("Sources")
        axes[1].set_title("What is observed: mixtures")
        for j, colour in zip(range(count), _colours(count), strict=True):
            axis = axes[2 + j]
            axis.plot(sources[:, j], color=QUIET, lw=3, alpha=0.5, label=f"s{j + 1}")
            axis.plot(_on_scale_of(sources[:, j], latents[:, j]), color=colour, lw=1.2, label="latent")
            axis.set_title(f"Latent matched with s{j + 1}: |r| = {scores[j]:.3f}")
        for axis in axes:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4)
            axis.set_xlim(0, len(sources) - 1)
        axes[-1].set_xlabel("moment (row)")
    return figure


def distributions(groups: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]]) -> Figure:
    """Histograms of signals, a column of panels for each group: sources, mixtures, latents.

    Args:
        groups: by name of the group, values of each of its signals by name.
    """
    rows = max(map(len, groups.values()))
    with house_style():
        figure = Figure(figsize=(2.5 * len(groups), 1.45 * rows + 0.3))
        axes = figure.subplots(rows, len(groups), squeeze=False)
        colours = dict(zip(groups, (QUIET, INK, ACCENT), strict=False))
        for column, (name, signals) in enumerate(groups.items()):
            for row in range(rows):
                axis = axes[row, column]
                if row >= len(signals):
                    axis.set_axis_off()
                    continue
                label, values = list(signals.items())[row]
                axis.hist(values, bins=40, color=colours.get(name, WARM), histtype="stepfilled")
                axis.set_yticks([])
                axis.set_title(f"{name}: {label}" if row == 0 else label, fontsize=9)
        figure.supylabel("rows", fontsize=9)
    return figure


def recovery(scores: Mapping[str, Float[np.ndarray, "repeats n_sources"]], *, ours: Sequence[str]) -> Figure:
    """Matched |r| with each source and their mean, by condition: a dot for each repetition, a bar for the mean.

    The scale is Fisher's z = artanh |r|, on which a correlation's sampling error is the same everywhere. What lies
    above 0.9995 is drawn at its end.

    Args:
        scores: by condition, |r| of the latent matched with each source, repetition by repetition.
        ours: the conditions that are trained dictionaries.
    """
    names = list(scores)[::-1]
    count = next(iter(scores.values())).shape[1]
    with house_style():
        figure = Figure(figsize=(3.1 * (count + 1), 0.29 * len(names) + 1.0))
        axes = figure.subplots(1, count + 1, sharey=True)
        for place, name in enumerate(names):
            values = np.column_stack([scores[name], scores[name].mean(1)]).clip(0, _HIGHEST)
            colour = ACCENT if name in ours else WARM if name == "untrained" else QUIET
            for axis, of_source in zip(axes, values.T, strict=True):
                jitter = place + np.linspace(-0.2, 0.2, len(of_source)) * (len(of_source) > 1)
                axis.plot([of_source.mean()] * 2, [place - 0.36, place + 0.36], color=colour, lw=2.4)
                axis.plot(of_source, jitter, "o", ms=3.6, mew=0.5, mec="white", color=colour, alpha=0.7, clip_on=False)
        for axis, title in zip(axes, [*(f"s{j + 1}" for j in range(count)), "mean"], strict=True):
            _fisher(axis, title)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(-0.6, len(names) - 0.4)
    return figure


def _fisher(axis: Axes, title: str) -> None:
    axis.set_xscale("function", functions=(lambda r: np.arctanh(np.clip(r, 0, _HIGHEST)), np.tanh))
    axis.set_xlim(0, _HIGHEST)
    axis.set_xticks(_TICKS, [f"{tick:g}".removeprefix("0") or "0" for tick in _TICKS], fontsize=8)
    axis.set_title(f"|r| with {title}" if title != "mean" else "|r|, mean over sources")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def _correlations(codes: Float[np.ndarray, "n d_sae"]) -> Float[np.ndarray, "d_sae d_sae"]:
    centred = codes.astype(np.float64) - codes.mean(0, dtype=np.float64)
    length = np.sqrt((centred**2).sum(0))
    varies = length > 1e-6 * max(float(length.max()), 1e-300)
    unit = np.where(varies, centred / np.where(varies, length, 1.0), 0.0)
    return np.asarray(unit.T @ unit)


def _order(r: Float[np.ndarray, "m m"]) -> np.ndarray:
    """Latents by clustering, those that do not vary last."""
    varies = np.flatnonzero(np.diag(r) > 0)
    still = np.flatnonzero(np.diag(r) == 0)
    if len(varies) < 3:
        return np.concatenate([varies, still])
    distance = np.clip(1 - np.abs(r[np.ix_(varies, varies)]), 0, None)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return np.concatenate([varies[leaves_list(tree)], still])


def _on_scale_of(source: Float[np.ndarray, " n"], latent: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    exact = latent.astype(np.float64) - latent.mean(dtype=np.float64)
    spread = float(exact.std())
    if spread == 0:
        return np.full(len(source), float(source.mean()))
    sign = np.sign(float(exact @ (source - source.mean()))) or 1.0
    return np.asarray(source.mean() + sign * exact / spread * source.std())


def _colours(count: int) -> list[str]:
    return [ACCENT, WARM, "#0a8f6c", "#5b3fb8", FAINT][:count]
