"""The strongest images of a few latents, as a person would see them in a rating study."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from unweave.analyze import Atlas
from unweave.core.seeds import numpy_generator
from unweave.figures.faces import image_grids
from unweave.metrics.embedding import cosines
from unweave.recipes.base import Run
from unweave.recipes.faces.material import UNTUNED, Faces, Material

_CALLED = {"": "dictionary", "neurons": "raw coordinates", "pca": "principal components", "random": "random directions"}
_IMAGES = 16


def tell_grids(config: Faces, run: Run, material: Material, atlases: Mapping[str, Atlas]) -> None:
    """Show 4×4 grids of a few latents of each condition, drawn by a rule that looks at no picture."""
    chosen = {name: drawn(atlas, config, run.seed) for name, atlas in atlases.items()}
    grids = {
        _CALLED[name]: {f"latent {j}": _pictures(atlases[name], int(j)) for j in latents}
        for name, latents in chosen.items()
        if len(latents)
    }
    run.section(
        "What latents show",
        f"The {_IMAGES} held-out images on which a latent is strongest, strongest first. Latents are drawn at random "
        f"from those below number {config.skip} that fire on at least {_IMAGES} images, under each condition alike; a "
        "rating study draws from the others, so nothing that is to be rated is seen here.",
    )
    if grids:
        run.show("grids", image_grids(grids), "A row for each condition. Judge them by the study below, not by eye.")
    else:
        run.findings.append(
            f"No latent below number {config.skip} fires on {_IMAGES} held-out images: there is no grid to show."
        )
    _tell_likeness(run, material, atlases)


def drawn(atlas: Atlas, config: Faces, seed: int) -> Int64[np.ndarray, " m"]:
    """Latents that a page shows: at random among the low-numbered live ones with a full grid."""
    table = atlas.examples.to_pydict()
    strongest = np.asarray(table["order"]) == "value"
    filled = np.bincount(np.asarray(table["latent"])[strongest], minlength=atlas.d_sae) >= _IMAGES
    live = np.isin(atlas.latents["status"].to_pylist(), ["live", "dense"])
    known = np.flatnonzero((filled & live)[: config.skip])
    return np.sort(numpy_generator(seed, "shown latents").permutation(known)[: config.shown]).astype(np.int64)


def _pictures(atlas: Atlas, latent: int) -> np.ndarray:
    found = atlas.top_images(latent)
    assert found is not None, "analyze was given images"
    return found[:_IMAGES]


def _tell_likeness(run: Run, material: Material, atlases: Mapping[str, Atlas]) -> None:
    """How alike a latent's strongest images are to the network before fine-tuning, which the latents never saw."""
    rows = material.embedded[UNTUNED] - material.embedded[UNTUNED].mean(0)
    cells = []
    for name, atlas in atlases.items():
        likeness = _likeness(atlas, rows)
        if not len(likeness):
            continue
        run.record({"grids/likeness": float(likeness.mean())}, condition=name)
        low, middle, high = np.quantile(likeness, [0.25, 0.5, 0.75])
        cells.append(
            [_CALLED[name], f"{likeness.mean():.3f}", f"{low:.3f} – {middle:.3f} – {high:.3f}", str(len(likeness))]
        )
    if not cells or len(rows) <= _IMAGES:
        return
    generator = numpy_generator(run.seed, "likeness by chance")
    null = [
        cosines(rows[generator.choice(len(rows), min(_IMAGES, len(rows)), replace=False)]).mean() for _ in range(200)
    ]
    run.record({"grids/likeness": float(np.mean(null))}, condition="chance")
    low, middle, high = np.quantile(null, [0.25, 0.5, 0.75])
    cells.append(
        [f"{_IMAGES} images at random", f"{np.mean(null):.3f}", f"{low:.3f} – {middle:.3f} – {high:.3f}", "200"]
    )
    note = (
        "Likeness: mean cosine between each two of a latent's strongest images, in the centred embedding of the "
        "network before fine-tuning. It stands in for a rating until there is one, and is none."
    )
    run.table(["", "likeness", "quartiles", "latents"], cells, note=note, main=1)
    if "grids/likeness" in run.metrics:
        run.findings.append(_said(run.metrics, atlases))


def _said(metrics: Mapping[str, float], atlases: Mapping[str, Atlas]) -> str:
    ours = metrics["grids/likeness"]
    beside = {name: metrics[key] for name in atlases if name and (key := f"grids/likeness@{name}") in metrics}
    told = ", ".join(f"{_CALLED[name]} {value:.2f}" for name, value in beside.items())
    chance = round(metrics["grids/likeness@chance"], 2) + 0.0  # not -0.00
    clearer = ours > 1.1 * max(beside.values(), default=0.0)
    verdict = "more alike than" if clearer else "not clearly more alike than"
    return (
        f"To the network before fine-tuning, a latent's {_IMAGES} strongest images are {verdict} those of the best "
        f"control: mean cosine {ours:.2f}; {told}; images at random {chance:.2f}."
    )


def _likeness(atlas: Atlas, rows: np.ndarray) -> np.ndarray:
    table = atlas.examples.to_pydict()
    strongest = np.asarray(table["order"]) == "value"
    latent, example = np.asarray(table["latent"])[strongest], np.asarray(table["example"])[strongest]
    found = []
    for start, stop in zip(*_runs(latent), strict=True):
        if stop - start >= _IMAGES:
            found.append(float(cosines(rows[example[start : start + _IMAGES]]).mean()))
    return np.asarray(found)


def _runs(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each latent's rows begin and end."""
    starts = np.flatnonzero(np.diff(latent, prepend=-1))
    return starts, np.append(starts[1:], len(latent))
