"""The figures of steering draw without a warning, for ordinary input and at the edges, and say what is named."""

import dataclasses
import io
import itertools
import re
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.dose import DoseCurves, dose_figure
from unweave.figures.splice import splice_figure


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(figure: Figure) -> list[str]:
    """The texts of the figure."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    figure.savefig(io.BytesIO(), format="png")
    return re.findall(r"<text[^>]*>([^<]*)</text>", buffer.getvalue())


def curves(doses: int, names: list[str], *, seed: int = 0, channels: int = 0, scale: float = 1.0) -> DoseCurves:
    rng = np.random.default_rng(seed)
    slope = np.linspace(-1, 1, len(names)) * scale
    change = np.outer(np.arange(doses), slope)
    probability = 1 / (1 + np.exp(-change))

    def around(value: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return value - width, value, value + width

    columns = {}
    for name, value in (("logit_change", change), ("probability", probability)):
        columns |= dict(zip((f"{name}_low", name, f"{name}_high"), around(value, 0.05 * scale), strict=True))
        control = (f"control_{name}_low", f"control_{name}", f"control_{name}_high")
        columns |= dict(zip(control, around(0.1 * value, 0.2 * scale), strict=True))
    share = np.linspace(0, 0.5, doses) * scale
    changed = dict(zip(("changed_low", "changed", "changed_high"), around(share, 0.01), strict=True))
    changed |= dict(
        zip(("control_changed_low", "control_changed", "control_changed_high"), around(share / 4, 0.02), strict=True)
    )
    return DoseCurves(
        latent=17,
        doses=np.arange(doses, dtype=float),
        label="set to",
        class_names=names,
        columns=columns,
        changed=changed,
        pictures=rng.random((doses, channels, 5, 4)) if channels else None,
        unedited=rng.random((channels, 5, 4)) if channels else None,
    )


DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    "given",
    [
        curves(7, [*DIGITS, "scrambled"], channels=1),
        curves(7, [*DIGITS, "scrambled"]),
        curves(5, DIGITS, channels=3),
        curves(1, DIGITS, channels=1),
        curves(3, ["only one"]),
        curves(4, ["yes", "no $x$ & a <name> that is far too long"]),
        curves(4, DIGITS, scale=0.0),
        curves(4, [f"class {number}" for number in range(1000)]),
    ],
    ids=["mnist", "no decoder", "colour", "one dose", "one class", "odd names", "nothing moves", "many classes"],
)
def test_a_dose_response_draws(given):
    texts = drawn(dose_figure(given))
    assert "Latent 17" in texts
    assert "Answers that change" in texts


def test_the_most_moved_classes_are_named_and_no_other():
    texts = drawn(dose_figure(curves(3, [f"class {number}" for number in range(20)])))
    assert sorted({text for text in texts if text.startswith("class")}) == [
        "class 0",
        "class 1",
        "class 18",
        "class 19",
    ]


def test_names_at_the_ends_do_not_lie_on_each_other():
    given = curves(3, list("abcd"))
    same = {name: np.repeat(value[:, :1], 4, axis=1) for name, value in given.columns.items()}
    figure = dose_figure(dataclasses.replace(given, columns=same))
    figure.draw_without_rendering()
    for axis in figure.axes[:2]:
        boxes = sorted((text.get_window_extent().y0, text.get_window_extent().y1) for text in axis.texts)
        assert len(boxes) == 4
        assert all(low[1] <= high[0] + 1.5 for low, high in itertools.pairwise(boxes))


@pytest.mark.parametrize("zeros", [4.0, float("nan"), 0.0])
def test_a_splice_draws(zeros):
    texts = drawn(
        splice_figure(
            {"the model itself": 0.07, "dictionary": 0.08, "pca": 0.09, "zeros": zeros},
            {"the model itself": 0.98, "dictionary": 0.97, "pca": 0.95, "zeros": 0.1},
        )
    )
    assert {"0.070", "0.080", "98.0 %", "10.0 %", "dictionary"} <= set(texts)
