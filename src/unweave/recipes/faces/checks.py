"""Did the embedding collapse, and can one still tell which way up an image is?"""

from collections.abc import Mapping

import numpy as np

from unweave.core.seeds import numpy_generator
from unweave.figures.faces import embedding_spread
from unweave.metrics.embedding import (
    alignment,
    cosines,
    effective_rank,
    matched_share,
    neighbour_accuracy,
    separability,
    spectrum,
    uniformity,
)
from unweave.metrics.similarity_rows import row_similarities, unit_rows
from unweave.recipes.base import Run
from unweave.recipes.faces.material import TUNED, UNTUNED, Faces, Material

_MEASURES = {
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine of two different images",
    "uniformity": "uniformity (0: all one; lower is better)",
    "alignment": "alignment of two views (0: the same)",
    "matched_views": "first views whose nearest second view is their own",
    "turned_cosine": "mean cosine with the same image upside down",
    "upright_known": "upright or upside down, told by a linear probe",
    "neighbour_accuracy": "class told by the 20 nearest images",
}


def tell_checks(config: Faces, run: Run, material: Material) -> None:
    """Measure the embedding before and after fine-tuning, and say which it is."""
    measured = {name: _measured(material, name, run.seed) for name in (TUNED, UNTUNED)}
    run.record({f"embedding/{name}": value for name, value in measured[TUNED].items()})
    run.record({f"embedding/{name}": value for name, value in measured[UNTUNED].items()}, condition=UNTUNED)
    chance = _by_chance(material)
    run.record({f"embedding/{name}": value for name, value in chance.items()}, condition="chance")
    run.section(
        "Did the embedding collapse?",
        "A contrastive loss can be met by embeddings that are of little use: all in a few directions, or each image "
        "alone in its own. Everything is measured on held-out images, beside the same network before fine-tuning.",
    )
    run.show(
        "embedding",
        embedding_spread(
            {name: spectrum(material.embedded[name]) for name in (TUNED, UNTUNED)},
            {name: cosines(material.embedded[name]) for name in (TUNED, UNTUNED)},
            turned=_turned(material, TUNED),
        ),
        f"Left: share of the variance along each principal direction, of {len(material.test):,} held-out images. "
        "Right: cosines of each two of up to 1,000 different images, and of an image with itself upside down.",
    )
    rows = [
        [text, *(_written(name, measured[of][name]) for of in (TUNED, UNTUNED)), _written(name, chance.get(name))]
        for name, text in _MEASURES.items()
        if name in measured[TUNED]
    ]
    count = len(material.checked)
    note = (
        f"Views, turned images, probe: {count} held-out images. The probe is judged on images that it was not fit on."
    )
    run.table(["", "fine-tuned", "before", "by chance"], rows, note=note, main=1)
    run.findings += _findings(measured, chance)


def _turned(material: Material, condition: str) -> np.ndarray:
    given = material.altered(condition)
    return np.asarray(row_similarities(unit_rows(given["image"]), unit_rows(given["turned"])))


def _measured(material: Material, condition: str, seed: int) -> dict[str, float]:
    rows, given = material.embedded[condition], material.altered(condition)
    found = {
        "effective_rank": effective_rank(spectrum(rows)),
        "mean_cosine": float(cosines(rows).mean()),
        "uniformity": uniformity(rows),
        "alignment": alignment(given["first view"], given["second view"]),
        "matched_views": matched_share(given["first view"], given["second view"]),
        "turned_cosine": float(_turned(material, condition).mean()),
        "upright_known": separability(given["image"], given["turned"], numpy_generator(seed, "upright")),
    }
    if material.labels is not None:
        found["neighbour_accuracy"] = neighbour_accuracy(rows, material.labels)
    return found


def _by_chance(material: Material) -> dict[str, float]:
    chance = {"matched_views": 1 / len(material.checked), "upright_known": 0.5}
    if material.labels is not None:
        chance["neighbour_accuracy"] = float(np.bincount(material.labels).max() / len(material.labels))
    return chance


def _written(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name in ("matched_views", "upright_known", "neighbour_accuracy"):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name == "effective_rank" else f"{value:.3f}"


def _findings(measured: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> list[str]:
    tuned, before = measured[TUNED], measured[UNTUNED]
    said = (
        f"After fine-tuning the embedding uses {tuned['effective_rank']:.0f} directions (before: "
        f"{before['effective_rank']:.0f}); {100 * tuned['matched_views']:.0f} % of views find the other view of their "
        f"image (before: {100 * before['matched_views']:.0f} %)"
    )
    if "neighbour_accuracy" in tuned:
        said += (
            f"; the nearest images tell the class of {100 * tuned['neighbour_accuracy']:.0f} % (before: "
            f"{100 * before['neighbour_accuracy']:.0f} %, by chance {100 * chance['neighbour_accuracy']:.0f} %)"
        )
    turned = (
        f"Whether an image is upside down can be told from its embedding in {100 * tuned['upright_known']:.0f} % "
        f"(before fine-tuning: {100 * before['upright_known']:.0f} %, by chance 50 %); an image and itself upside down "
        f"have a mean cosine of {tuned['turned_cosine']:.2f}."
    )
    return [said + ".", turned]
