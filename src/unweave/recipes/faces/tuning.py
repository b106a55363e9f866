"""How the network was fine-tuned, and what its losses amount to."""

import math

from unweave.figures.faces import tuning_curves
from unweave.models.contrastive import Contrastive
from unweave.recipes.base import Run
from unweave.recipes.faces.material import Faces, Material

PUBLISHED_LOSSES = {"loss": 0.0944, "contrastive": 0.0080, "orientation": 0.0864}
_FORMS = {
    "views": "Two random views of each image have to find each other in the batch, by the cosine of their embeddings; "
    "half of the images are upside down in both views, and a linear layer has to tell from the embedding.",
    "published": "Dot products of a batch's raw embeddings with each other have to be largest on the diagonal, from a "
    "single view of each image; and an embedding has to be minus that of the image upside down.",
}


def tell_tuning(config: Faces, run: Run, material: Material) -> None:
    """Say what the images and the weights were, and show the losses."""
    fit, size = config.fit, material.train.shape[1]
    first = {name: values[0] for name, values in material.curves.items() if values}
    last = {name: values[-1] for name, values in material.curves.items() if values}
    run.record({f"tuning/{name}": last[name] for name in PUBLISHED_LOSSES if name in last})
    run.record({f"tuning/{name}": first[name] for name in PUBLISHED_LOSSES if name in first}, condition="first")
    run.record({"model/pretrained": float(material.pretrained)})
    run.section(
        "The images, the network, and how it was fine-tuned",
        f"{len(material.train):,} images to train on and {len(material.test):,} to judge on, from {material.layout}, "
        f"at {size} × {size} pixels. ResNet-18 without its classifier gives each a 512-d embedding. Its weights: "
        f"{material.origin}. {_FORMS[fit.form]}",
    )
    if not material.pretrained:
        run.findings.append(
            f"WARNING: no trained weights were at hand, so the network began at random ({material.origin}) and has "
            f"seen nothing but the {len(material.train):,} images of this run. What its latents show is no evidence "
            "about a network that was trained on ImageNet."
        )
    if not last:
        return
    run.show(
        "tuning",
        tuning_curves(material.curves, chance=_chance(fit), parts=_names(fit)),
        f"Losses of fine-tuning over {int(last['step'])} steps of {fit.batch_size} images, {last['epoch']:.1f} passes. "
        "Dotted: what each costs an embedding that tells nothing apart.",
    )
    rows = [[_names(fit).get(name, name), f"{first[name]:.4f}", f"{last[name]:.4f}"] for name in PUBLISHED_LOSSES]
    headings = ["", "first steps", "last steps"]
    if fit.form == "published":
        headings.append("published")
        rows = [[*row, f"{PUBLISHED_LOSSES[name]:.4f}"] for row, name in zip(rows, PUBLISHED_LOSSES, strict=True)]
    run.table(headings, rows, note="Means over a few steps at either end.", main=2)


def _names(fit: Contrastive) -> dict[str, str]:
    weight = "" if fit.orientation == 1 else f" (× {fit.orientation:g})"
    return {"contrastive": "contrastive part", "orientation": f"orientation part{weight}", "loss": "loss"}


def _chance(fit: Contrastive) -> dict[str, float]:
    """What an embedding pays that is the same for every image."""
    if fit.form == "published":
        return {"contrastive": math.log(fit.batch_size)}
    return {"contrastive": math.log(2 * fit.batch_size - 1), "orientation": math.log(2)}
