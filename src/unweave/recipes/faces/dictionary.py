"""The dictionary of the embedding, beside its controls."""

from collections.abc import Mapping

import numpy as np

from unweave.analyze import Atlas, analyze
from unweave.dictionaries.base import Dictionary
from unweave.figures.conditions import frequencies
from unweave.figures.curves import dictionary_curves
from unweave.recipes.base import Run
from unweave.recipes.classifier import controls, findings
from unweave.recipes.faces.material import Faces, Material
from unweave.train import train

_CALLED = {"": "dictionary", "neurons": "raw coordinates", "pca": "PCA", "random": "random directions"}
_MEASURES = (
    ("dictionary/explained_variance", "variance explained", "percent"),
    ("dictionary/l0", "active latents a row", "number"),
    ("dictionary/live", "live latents", "count"),
    ("dictionary/dead", "dead latents", "count"),
    ("labels/top_class_share_median", "share of the commonest class, median latent", "percent"),
    ("labels/top_examples_purity_mean", "the same of the 16 strongest images, mean", "percent"),
    ("labels/mutual_information_mean", "information about the class, mean (bits)", "bits"),
)


def study_embedding(config: Faces, run: Run, material: Material) -> dict[str, Atlas]:
    """Train the dictionary, fit its controls, and judge all on held-out embeddings.

    Returns:
        The atlas of the dictionary (``""``) and of each control, by name.
    """
    rows, judged = material.train_rows, material.test_rows["tuned"]
    sae = train(rows, config.sae, config.training, seed=run.seed, out=run.place("sae"), runtime=run.runtime)
    atlases = {"": _atlas(config, run, material, sae, "")}
    k = max(1, round(atlases[""].metrics["dictionary/l0"]))
    for name, control in controls(sae.d_sae, k).items():
        fitted = train(rows, control, seed=run.seed, out=run.place(f"sae@{name}"), runtime=run.runtime)
        atlases[name] = _atlas(config, run, material, fitted, name)
    for name, atlas in atlases.items():
        run.record(atlas.metrics, condition=name)
    run.findings += findings(run.metrics, live_share=config.analysis.live_share)
    _tell(config, run, sae, atlases, n=judged.n)
    return atlases


def _atlas(config: Faces, run: Run, material: Material, dictionary: Dictionary, name: str) -> Atlas:
    return analyze(
        dictionary,
        material.test_rows["tuned"],
        images=material.test,
        analysis=config.analysis,
        seed=run.seed,
        out=run.place(f"atlas@{name}" if name else "atlas"),
    )


def _tell(config: Faces, run: Run, sae: Dictionary, atlases: Mapping[str, Atlas], *, n: int) -> None:
    run.section(
        "The dictionary beside its controls",
        f"A dictionary of kind {config.sae.kind} with {sae.d_sae} latents, of the embeddings of the training images; "
        f"judged on {n:,} held-out ones. Raw coordinates, principal components and random directions follow the same "
        "rule: one-sided, and as many active in a row.",
    )
    run.show("dictionary", dictionary_curves(sae.history), "The dictionary while it was trained.")
    rates = {name or "dictionary": np.asarray(atlas.column("rate"), np.float64) for name, atlas in atlases.items()}
    run.show(
        "frequencies",
        frequencies(rates, rows=n, live_share=config.analysis.live_share),
        f"How often latents fire on {n:,} held-out images; beyond the dotted line a latent counts as live.",
    )
    rows = []
    for metric, text, unit in _MEASURES:
        if metric in atlases[""].metrics:
            rows.append([text, *(_written(atlas.metrics.get(metric), unit) for atlas in atlases.values())])
    run.table(["", *(_CALLED[name] for name in atlases)], rows, main=1)


def _written(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return {"percent": f"{100 * value:.1f} %", "number": f"{value:.1f}", "count": f"{value:.0f}"}.get(
        unit, f"{value:.3f}"
    )
