"""Every figure draws without a warning, for ordinary input and for what runs leave at the edges."""

import io
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.conditions import frequencies, information_map, selectivity
from unweave.figures.curves import dictionary_curves, model_curves
from unweave.figures.latents import LatentCard, contact_sheet, latent_card
from unweave.figures.style import house_style, panels

NAN = float("nan")
RNG = np.random.default_rng(0)
NONE = np.zeros(0)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(figure: Figure) -> str:
    """The figure as SVG text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    figure.savefig(io.BytesIO(), format="png")
    return buffer.getvalue()


RATES = {
    "ordinary": {"dictionary": RNG.random(50) ** 4, "pca": RNG.random(8)},
    "one latent": {"dictionary": np.array([0.25])},
    "all dead": {"dictionary": np.zeros(9), "a new condition": np.zeros(2)},
    "always": {"dictionary": np.ones(3)},
    "no latents": {"dictionary": NONE},
}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize(("rows", "live_share"), [(1000, 1e-3), (1, 1e-3), (10**7, 0.0), (50, 1.0)])
def test_frequencies(rates, rows, live_share):
    text = drawn(frequencies(rates, rows=rows, live_share=live_share))
    for name, rate in rates.items():
        assert name in text
        assert f"{int((rate == 0).sum())} of {len(rate)} dead" in text


VALUES = {
    "ordinary": {"dictionary": RNG.random(50), "pca": RNG.random(8)},
    "one latent": {"dictionary": np.array([0.25]), "random": np.array([0.125])},
    "no live latents": {"dictionary": NONE, "pca": NONE},
    "one condition is empty": {"dictionary": RNG.random(5), "pca": NONE},
    "all zero": {"dictionary": np.zeros(4), "pca": np.zeros(4)},
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_selectivity(values):
    text = drawn(selectivity(values, values, prior=0.1))
    assert all(f">{name}<" in text for name in values)
    for numbers in values.values():
        if len(numbers):
            assert f"{np.median(numbers):.2g}" in text


@pytest.mark.parametrize("m", [0, 1, 200])
@pytest.mark.parametrize("significant", [0.0, 0.5, 1.0])
def test_information_map(m, significant):
    figure = information_map(RNG.random(m), RNG.random(m), RNG.random(m) < significant)
    assert "bits about the class" in drawn(figure)


def test_information_map_of_latents_that_say_nothing():
    drawn(information_map(np.full(3, 1.0), np.zeros(3), np.zeros(3, bool)))
    figure = information_map(np.array([0.01, 0.1, 1.0]), np.array([0.0, 1.0, 2.0]), np.array([False, True, True]))
    low, high = figure.axes[0].collections
    assert (len(low.get_offsets()), len(high.get_offsets())) == (1, 2)


def curves(n: int, measured: bool) -> dict[str, list[float]]:
    accuracy = [NAN if i % 2 == 0 or not measured else i / n for i in range(n)]
    return {
        "step": list(range(n)),
        "epoch": [i / 2 for i in range(n)],
        "train_loss": [1 / (i + 1) for i in range(n)],
        "test_accuracy": accuracy,
        "test_loss": [1 - a for a in accuracy],
    }


@pytest.mark.parametrize(("n", "measured"), [(8, True), (2, True), (8, False), (1, False), (0, False)])
def test_model_curves(n, measured):
    text = drawn(model_curves(curves(n, measured)))
    assert "Model: test accuracy" in text
    if measured:
        assert f"{100 * (n - 1) / n:.1f} %" in text


def history(n: int, **columns) -> dict[str, list[float]]:
    plain = {
        "step": list(range(n)),
        "loss": [1 / (i + 1) for i in range(n)],
        "reconstruction": [0.9 / (i + 1) for i in range(n)],
        "explained_variance": [0.5 + 0.4 * i / max(n, 1) for i in range(n)],
        "l0": [16.0] * n,
        "dead": [float(i) for i in range(n)],
    }
    return {**plain, **columns}


@pytest.mark.parametrize(
    "columns",
    [
        history(10),
        history(1),
        history(0),
        history(3, aux=[0.0, 0.1, 0.1], l1=[0.0] * 3, learning_rate=[1e-3] * 3),
        history(3, loss=[0.0] * 3, reconstruction=[0.0] * 3, explained_variance=[1.0] * 3, l0=[0.0] * 3, dead=[0] * 3),
        history(3, explained_variance=[NAN] * 3, loss=[NAN] * 3, reconstruction=[NAN] * 3),
        history(2, **{f"part{i}": [1.0, 2.0] for i in range(5)}),
    ],
    ids=["ordinary", "one step", "none", "parts", "perfect", "nan", "many parts"],
)
def test_dictionary_curves(columns):
    assert "Unexplained variance" in drawn(dictionary_curves(columns))


def card(**change) -> LatentCard:
    fields = {
        "latent": 7,
        "numbers": {
            "rate": 0.0123, "count": 12, "top_class": 1, "top_class_share": 0.75, "mutual_information": 0.5,
        },
        "images": RNG.integers(0, 255, (9, 1, 8, 8), dtype=np.uint8),
        "histogram": np.array([1, 5, 2]),
        "largest": 3.0,
        "class_names": ["zero", "one"],
        "class_counts": np.array([3.0, 9.0]),
        "class_totals": np.array([50, 50]),
    }  # fmt: skip
    return LatentCard(**{**fields, **change})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "one is 75 % of its examples · 0.500 bits"),
        ({"images": None}, "no images"),
        ({"images": np.zeros((0, 1, 8, 8), np.uint8)}, "never fires"),
        ({"images": np.zeros((1, 3, 5, 9), np.uint8)}, "Latent 7"),
        ({"class_names": None, "class_counts": None, "class_totals": None}, "fires on 1.23 % of rows"),
        ({"class_names": ["0"], "class_counts": np.array([3.0]), "class_totals": np.array([9])}, "classes it fires on"),
        ({"histogram": np.zeros(3), "largest": 0.0, "class_counts": np.zeros(2)}, "Latent 7"),
    ],
)
def test_a_latents_card(change, shown):
    if "class_names" in change and change["class_names"] == ["0"]:
        change = {**change, "numbers": {**card().numbers, "top_class": 0}}
    assert shown in drawn(latent_card(card(**change)))


def test_the_summary_says_rates_in_plain_figures():
    numbers = {"count": 0}
    lines = [card(numbers={**numbers, "rate": rate}).summary for rate in (0.0, 1e-4, 0.5, 0.9999, 1.0)]
    assert lines == [f"fires on {text} % of rows" for text in ("0", "0.01", "50", "100", "100")]


def test_class_shares_by_hand():
    share, prior = card().class_shares
    assert (share.tolist(), prior.tolist()) == ([0.25, 0.75], [0.5, 0.5])
    assert card(class_counts=np.zeros(2)).class_shares[0].tolist() == [0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_pixel_for_pixel(channels):
    images = RNG.integers(0, 255, (3, channels, 2, 4), dtype=np.uint8)
    sheet = contact_sheet(images, 2, gap=1)
    assert sheet.shape == (5, 9, 4)
    for index, (top, left) in enumerate([(0, 0), (0, 5), (3, 0)]):
        pixels = np.broadcast_to(np.moveaxis(images[index], 0, -1), (2, 4, 3))
        assert np.array_equal(sheet[top : top + 2, left : left + 4, :3], pixels)
        assert (sheet[top : top + 2, left : left + 4, 3] == 255).all()
    assert not sheet[2, :, 3].any()
    assert not sheet[:, 4, 3].any()
    assert not sheet[3:, 5:, 3].any()
    assert (sheet[sheet[..., 3] == 0] == [255, 255, 255, 0]).all()


def test_the_users_settings_neither_change_the_look_nor_are_changed():
    with mpl.rc_context({"font.size": 31.0, "axes.facecolor": "red", "figure.dpi": 55.0}):
        before = dict(mpl.rcParams)
        for figure in (latent_card(card()), model_curves(curves(4, measured=True))):
            assert figure.axes[-1].get_facecolor() == (1, 1, 1, 1)
        assert dict(mpl.rcParams) == before
        with house_style():
            assert mpl.rcParams["font.size"] == 9.0
        assert dict(mpl.rcParams) == before


def test_panels_are_unknown_to_pyplot():
    import matplotlib.pyplot as plt

    figure, axes = panels(3)
    assert len(axes) == 3
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
