"""Nearest images of a few queries: in the embedding, in code space, and before fine-tuning."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from unweave.analyze import Atlas
from unweave.analyze.query import nearest_codes, nearest_rows
from unweave.core.codes import Codes
from unweave.core.seeds import torch_generator
from unweave.figures.faces import nearest_images
from unweave.recipes.base import Run
from unweave.recipes.faces.material import TUNED, UNTUNED, Faces, Material

Nearest = Callable[[int], Int64[np.ndarray, " k"]]
_NEAREST = 8
_JUDGED = 300
_CALLED = {"": "fine-tuned", "latents": "latents", UNTUNED: "before", "chance": "by chance"}


def tell_neighbours(config: Faces, run: Run, material: Material, atlases: Mapping[str, Atlas]) -> None:
    """Show the nearest held-out images of a few, drawn at random, and how often they are of the same class."""
    drawn = torch.randperm(len(material.test), generator=torch_generator(run.seed, "queries"))
    queries = drawn[: config.queries].sort().values
    spaces = _spaces(material, atlases[""].codes)
    run.section(
        "Nearest images",
        "Held-out images drawn at random, and the images nearest to each by cosine: of embeddings, of codes, and of "
        "embeddings before fine-tuning.",
    )
    near = {name: torch.from_numpy(np.concatenate([of(j) for j in queries.tolist()])) for name, of in spaces.items()}
    pixels = {_CALLED[name]: material.test.pixels(index).numpy() for name, index in near.items()}
    run.show(
        "nearest",
        nearest_images(
            material.test.pixels(queries).numpy(),
            {name: one.reshape(len(queries), -1, *material.test.shape) for name, one in pixels.items()},
        ),
        "The image on the left, and those nearest to it, nearest first. `unweave query RUN IMAGE` does it for a "
        "picture of your own.",
    )
    if material.labels is not None:
        _tell_agreement(run, material.labels, spaces)


def _spaces(material: Material, codes: Codes) -> dict[str, Nearest]:
    """The nearest others of a held-out image, by what they are near in."""

    def in_rows(rows: Float32[np.ndarray, "n d"]) -> Nearest:
        return lambda j: _without(j, nearest_rows(rows, rows[j][None]))

    return {
        "": in_rows(material.embedded[TUNED]),
        "latents": lambda j: _without(j, nearest_codes(codes, _row(codes, j))),
        UNTUNED: in_rows(material.embedded[UNTUNED]),
    }


def _tell_agreement(run: Run, labels: Int64[np.ndarray, " n"], spaces: Mapping[str, Nearest]) -> None:
    some = range(0, len(labels), max(1, len(labels) // _JUDGED))
    shares = {name: float(np.mean([(labels[of(j)] == labels[j]).mean() for j in some])) for name, of in spaces.items()}
    shares["chance"] = float(((np.bincount(labels) / len(labels)) ** 2).sum())
    for name, share in shares.items():
        run.record({"nearest/same_class": share}, condition=name)
    run.table(
        ["", *(_CALLED[name] for name in shares)],
        [["nearest images of the same class", *(f"{100 * share:.1f} %" for share in shares.values())]],
        note=f"Of the {_NEAREST} nearest, mean over {len(some)} held-out images.",
        main=1,
    )


def _row(codes: Codes, j: int) -> Float32[np.ndarray, " d_sae"]:
    """One row of sparse codes, dense."""
    row = np.zeros(codes.d_sae, np.float32)
    part = slice(codes.offsets[j], codes.offsets[j + 1])
    row[codes.latent[part]] = codes.value[part]
    return row


def _without(j: int, similarities: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
    """The most similar others, most similar first."""
    masked = similarities.copy()
    masked[j] = -np.inf
    return np.argsort(-masked, kind="stable")[:_NEAREST]
