"""Figures of similarity and attention: everything that was given is there, and what is degenerate is drawn."""

import numpy as np
import pytest

from unweave.figures.attention import attention_maps, localised
from unweave.figures.comparison import replication, row_histograms, similarity
from unweave.figures.files import write


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("pairs", [1, 6])
def test_similarity_has_a_row_for_each_measure_and_a_key_for_each_condition(pairs, tmp_path):
    values = {name: rng().uniform(-0.2, 1, (pairs, 3)) for name in ("observed", "untrained", "shuffled")}
    figure = similarity(["linear_cka", "rsa", "own_measure"], values, title="fc0")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["linear CKA", "RSA", "own_measure"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "as measured",
        "untrained networks",
        "shuffled rows (mean)",
    ]
    write(figure, tmp_path, "similarity")
    assert (tmp_path / "similarity.png").is_file()


def test_similarity_writes_no_negative_zero():
    figure = similarity(["rsa"], {"observed": np.array([[-0.001]]), "noise": np.array([[0.0]])})
    assert "0.00" in [text.get_text() for text in figure.axes[0].texts]


def test_histograms_have_a_panel_for_each_layer():
    values = {"observed": rng().uniform(0.2, 1, 50), "noise": rng().uniform(0.6, 1, 50)}
    figure = row_histograms({"fc0": values, "fc1": values}, xlabel="cosine")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["fc0", "fc1"]


def test_replication_writes_the_share_at_each_mark():
    thresholds = np.linspace(0, 1, 11)
    curves = {"dictionary": np.linspace(1, 0, 11)[None], "shuffled": np.zeros((1, 11))}
    axis = replication(thresholds, curves, marks=(0.7, 0.9)).axes[0]
    assert [text.get_text() for text in axis.texts] == ["30 %", "10 %"]


def test_maps_of_different_number_and_an_empty_one(tmp_path):
    maps = {"units": rng().normal(size=(3, 6, 5)), "latents": np.zeros((1, 6, 5))}
    outlines = {"units": np.abs(maps["units"]) > 1}
    figure = attention_maps(maps, outlines=outlines, notes={"units": ["1 part", "2 parts", "3 parts"]})
    assert len(figure.axes) == 4
    write(figure, tmp_path, "maps")


def test_localisation_has_a_panel_for_each_measure():
    values = {"units": rng().normal(size=9), "latents": rng(1).normal(size=4), "units, null": np.zeros(3)}
    titles = {"a": ("A", "x"), "b": ("B", "y")}
    figure = localised({"a": values, "b": values}, titles=titles)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["A", "B"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(values)
