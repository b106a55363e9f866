"""Charts are plain JSON whatever the numbers are."""

import json
import math

import numpy as np
import pytest

from unweave.app import charts


def _plain(options: charts.Options) -> str:
    return json.dumps(options, allow_nan=False)


def test_curves_leave_gaps() -> None:
    options = charts.curves([0, 1, 2], {"loss": [3.0, math.nan, 1.0]}, title="Loss", log=True)
    assert "NaN" not in _plain(options)
    assert options["series"][0]["data"] == [[0, 3.0], [2, 1.0]]
    assert charts.curves([0], {"a": [math.nan]}, title="")["series"][0]["data"] == [[0, None]]


@pytest.mark.parametrize("rate", [[0.0, 0.0], [1.0], [0.5, 0.01, 0.0]])
def test_frequencies_count_every_latent(rate: list[float]) -> None:
    data = charts.frequencies(np.array(rate))["series"][0]["data"]
    assert data[0]["value"] == rate.count(0.0)
    assert data[0]["value"] + sum(data[1:]) == len(rate)


def test_a_map_by_class_has_a_colour_each_and_every_point() -> None:
    names = [f"class {number}" for number in range(23)]
    options = charts.map_of_latents(
        range(46), [0.0] * 46, [1.0] * 46, [n % 23 for n in range(46)], label="class", class_names=names, picture="/{b}"
    )
    _plain(options)
    assert sum(len(series["data"]) for series in options["series"]) == 46
    colours = [series["color"] for series in options["series"]]
    assert len(set(colours[:20])) == 20


@pytest.mark.parametrize("values", [[], [2.0], [0.0, 0.0], [1e-12, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_a_map_by_number_has_a_scale(values: list[float], log: bool) -> None:
    n = len(values)
    options = charts.map_of_latents(range(n), [0.0] * n, [0.0] * n, values, label="rate", log=log)
    assert options["visualMap"]["max"] > options["visualMap"]["min"]
    _plain(options)


def test_doses_in_percent_and_in_logits() -> None:
    options = charts.doses([0.0, 1.0], {"cat": [0.25, 0.5]}, percent=True)
    assert options["series"][0]["data"] == [[0.0, 25.0], [1.0, 50.0]]
    assert charts.doses([0.0], {"cat": [-3.0]}, percent=False)["series"][0]["data"] == [[0.0, -3.0]]
    bars = charts.before_and_after(["cat"], [-2.0], [3.0], percent=False)
    assert [series["data"] for series in bars["series"]] == [[3.0], [-2.0]]
