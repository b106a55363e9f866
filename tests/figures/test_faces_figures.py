"""Figures of an embedding and of its latents: everything given is drawn, whatever its size."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.faces import (
    attribute_precision,
    embedding_spread,
    image_grids,
    nearest_images,
    query_sheet,
    tuning_curves,
)


def pictures(count: int, channels: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def texts(figure: Figure) -> set[str]:
    found = {text.get_text() for axis in figure.axes for text in axis.texts}
    return found | {axis.get_title(loc="left") for axis in figure.axes}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_each_latents_name_and_at_most_16_images(channels: int) -> None:
    grids = {"dictionary": {"latent 3": pictures(16, channels), "latent 5": pictures(20, channels)}, "PCA": {}}
    figure = image_grids(grids)
    assert {"dictionary", "PCA", "latent 3", "latent 5"} <= texts(figure)
    assert len(figure.axes[0].images) == 32


def test_neighbours_stand_beside_their_query() -> None:
    figure = nearest_images(
        pictures(2), {"fine-tuned": pictures(10).reshape(2, 5, 3, 8, 8), "before": pictures(10).reshape(2, 5, 3, 8, 8)}
    )
    assert len(figure.axes[0].images) == 2 + 20


def test_a_query_without_anything_to_show_is_the_picture_alone() -> None:
    assert len(query_sheet(pictures(1)[0], {}, {}).axes[0].images) == 1
    full = query_sheet(pictures(1)[0], {"latent 3 (0.2)": pictures(4)}, {"nearest in codes": pictures(6)})
    assert len(full.axes[0].images) == 11
    assert {"latent 3 (0.2)", "nearest in codes"} <= texts(full)


def test_curves_have_their_line_of_chance() -> None:
    curves = {"step": [1.0, 2.0], "contrastive": [5.0, 4.0], "loss": [6.0, 5.0]}
    figure = tuning_curves(
        curves, chance={"contrastive": 5.5}, parts={"contrastive": "contrastive part", "loss": "loss"}
    )
    assert {"Contrastive part", "Loss"} <= texts(figure)
    assert [len(axis.lines) for axis in figure.axes] == [2, 1]
    assert figure.axes[0].get_ylim()[1] > 5.5


def test_spread_takes_collapsed_embeddings() -> None:
    zeros = np.zeros(4)
    figure = embedding_spread(
        {"tuned": zeros, "untuned": np.array([1.0, 0, 0, 0])}, {"tuned": np.ones(3)}, turned=np.ones(2)
    )
    assert len(figure.axes) == 2


def test_attributes_are_drawn_in_the_order_given() -> None:
    names = [f"a{j}" for j in range(5)]
    values = np.linspace(0.9, 0.2, 5)
    figure = attribute_precision(names, {"dictionary": values, "PCA": values / 2}, null=values / 3, share=values / 4)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert len(figure.axes[0].collections) == 3
