"""Curves of training."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unweave.figures.style import ACCENT, QUIET, WARM, house_style, panels


def model_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Training loss and test accuracy of the model.

    Args:
        curves: columns `epoch`, `train_loss`, `test_loss` and `test_accuracy`; NaN where nothing was measured.
    """
    with house_style():
        figure, (left, right) = panels(2)
        epoch, accuracy = np.asarray(curves["epoch"]), np.asarray(curves["test_accuracy"])
        test_loss = np.asarray(curves["test_loss"])
        measured = ~np.isnan(accuracy)
        left.plot(epoch, curves["train_loss"], color=ACCENT, label="training")
        left.plot(epoch[measured], test_loss[measured], "o-", ms=3, color=WARM, label="test")
        left.set(title="Model: cross-entropy", xlabel="epoch", ylabel="nats")
        left.legend()
        right.plot(epoch[measured], 100 * accuracy[measured], "o-", ms=3, color=WARM)
        right.set(title="Model: test accuracy", xlabel="epoch", ylabel="%")
        if measured.any():
            last = (epoch[measured][-1], 100 * accuracy[measured][-1])
            right.annotate(f"{last[1]:.1f} %", last, xytext=(-4, -14), textcoords="offset points", ha="right")
    return figure


def dictionary_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Loss and its parts, unexplained variance, L0 and dead latents over training.

    Args:
        history: columns `step`, `loss`, `explained_variance`, `l0`, `dead`, and one for each part of the loss.
    """
    fixed = {"step", "loss", "explained_variance", "l0", "dead", "learning_rate"}
    parts = [name for name in history if name not in fixed]
    step = np.asarray(history["step"])
    with house_style():
        figure, (loss, fvu, sparsity) = panels(3, width=3.3)
        for name, style in zip([*parts, "loss"], itertools.cycle(["-", "--", ":", "-."]), strict=False):
            values = np.asarray(history[name])
            if (values > 0).any():
                loss.plot(
                    step,
                    np.where(values > 0, values, np.nan),
                    style,
                    label=name,
                    color=QUIET if name == "loss" and len(parts) > 1 else None,
                )
        loss.set(title="Dictionary: loss", xlabel="step")
        if loss.lines:
            loss.set_yscale("log")
            loss.legend()
        unexplained = 1 - np.asarray(history["explained_variance"])
        fvu.plot(step, unexplained, color=ACCENT)
        fvu.set(title="Unexplained variance", xlabel="step", ylabel="share (training batches)")
        if (unexplained > 0).any():
            fvu.set_yscale("log")
        sparsity.plot(step, history["l0"], color=ACCENT, label="L0")
        sparsity.set(title="L0 and dead latents", xlabel="step", ylabel="active latents a row", ylim=(0, None))
        dead = sparsity.twinx()
        dead.plot(step, history["dead"], color=WARM)
        dead.set_ylabel("dead latents", color=WARM)
        dead.set_ylim(0, max(1.0, 1.1 * max(history["dead"], default=0.0)))
        dead.grid(visible=False)
    return figure
