"""What was wrong with the published analysis, in numbers from this run's own embeddings."""

import math

import numpy as np
import torch

from unweave.core.seeds import torch_generator
from unweave.dictionaries.relu_faces import FacesReLU
from unweave.dictionaries.stored import load
from unweave.recipes.base import Run
from unweave.recipes.faces.material import TUNED, Faces, Material
from unweave.store.rows import TensorRows

_IMAGES, _BATCH, _EPOCHS, _RATE, _WIDTH = 202_599, 512, 30, 1e-5, 512
_CONTRASTIVE_BATCH = 128
_NOTEBOOK = FacesReLU(d_sae=_WIDTH, l1=0.1, l1_reduction="sum", b_dec="zero", decoder_norm="free")


def cheapest_loss(batch: int, width: int) -> tuple[float, float, float]:
    """The least that the published loss can be, by embeddings that know nothing but that images differ.

    Embeddings without negative entries, of squared length s, mutually orthogonal, those of turned images too, pay
    log(1 + (b − 1) e^{−s}) for the contrastive part and 2 s / d for the orientation part: (e + e')² has mean
    (‖e‖² + ‖e'‖²) / d where e·e' = 0. The sum is least at s = log((b − 1)(d / 2 − 1)).

    Args:
        batch: b.
        width: d.

    Returns:
        s, the contrastive part and the orientation part.
    """
    s = math.log((batch - 1) * (width / 2 - 1))
    return s, math.log1p((batch - 1) * math.exp(-s)), 2 * s / width


def tell_published(config: Faces, run: Run, material: Material) -> None:
    """Show why the published losses and dictionary say little, whatever the preset of this run."""
    run.section(
        "What was wrong with the published analysis",
        "Computed from this run's own embeddings and from the published settings, whatever the preset of this run.",
    )
    rows = [*_of_the_loss(run, material), *_of_the_dictionary(run, material)]
    if isinstance(config.sae, FacesReLU):
        rows.append(_moved(config, run))
    run.table(["", "number"], rows, main=1)


def _of_the_loss(run: Run, material: Material) -> list[list[str]]:
    s, contrastive, orientation = cheapest_loss(_CONTRASTIVE_BATCH, material.train_rows.d_in)
    given = material.altered(TUNED)
    negative = {
        "entries": float((material.embedded[TUNED] < 0).mean()),
        "turned_cosines": float((np.sum(given["image"] * given["turned"], 1) < 0).mean()),
    }
    run.record({"published/cheapest_loss": contrastive + orientation})
    run.record({f"published/negative_{name}": share for name, share in negative.items()})
    run.findings.append(
        f"The published losses (0.0080 + 0.0864) need no knowledge of any image: mutually orthogonal embeddings of "
        f"squared length {s:.1f} pay {contrastive:.4f} + {orientation:.4f}. Embeddings end in a ReLU and have no "
        "negative entry, so none can be minus another: the orientation part is least at zero, whichever way up an "
        "image is."
    )
    return [
        ["published loss at the end", "0.0944"],
        [
            "the same loss of orthogonal embeddings that know nothing of their images",
            f"{contrastive + orientation:.4f}",
        ],
        ["negative entries of this run's embeddings; minus another needs them", f"{100 * negative['entries']:.1f} %"],
        [
            "images whose embedding has a negative cosine with that of themselves upside down; −1 is asked for",
            f"{100 * negative['turned_cosines']:.1f} %",
        ],
    ]


def _of_the_dictionary(run: Run, material: Material) -> list[list[str]]:
    """How far the published dictionary starts from its rows, and how far its training can go."""
    rows = torch.from_numpy(material.embedded[TUNED][:_BATCH])
    start = _NOTEBOOK.build(rows.shape[1])
    start.prepare(TensorRows(rows), torch_generator(run.seed, "dictionary"))
    with torch.no_grad():
        missed = float((rows - start(rows)).norm(dim=1).mean() / rows.norm(dim=1).mean())
        active = float((start.encode(rows) > 0).double().sum(1).mean())
    steps = _EPOCHS * -(-_IMAGES // _BATCH)
    reach = steps * _RATE
    least = math.cos(math.atan(reach))
    run.record({"published/start_error": missed, "published/start_l0": active, "published/reach": reach})
    run.findings.append(
        f"The published dictionary starts {missed:.0f} row lengths from what it should reconstruct, and its {steps:,} "
        f"steps of {_RATE:g} can move a weight of size 1 by about {reach:.2f}: the directions of what was rated as "
        f"sparse features were drawn at random and stayed so (cosine with the start about {least:.3f} or more). What "
        "training does change is how many of them fire."
    )
    return [
        ["published dictionary at its start: what its reconstructions miss, in lengths of a row", f"{missed:.0f}"],
        ["published dictionary at its start: active latents a row", f"{active:.0f} of {_WIDTH}"],
        [f"how far a weight can move in its {steps:,} steps of {_RATE:g}; weights are of size 1", f"about {reach:.2f}"],
        ["least cosine of a latent's direction with its random start after that", f"{least:.3f}"],
    ]


def _moved(config: Faces, run: Run) -> list[str]:
    """How much of its random start is left in this run's dictionary."""
    trained = load(run.artifacts["sae"])
    begun = config.sae.build(trained.d_in)
    begun.prepare(TensorRows(torch.zeros(2, trained.d_in)), torch_generator(run.seed, "dictionary"))
    one, other = trained.state_dict()["W_enc"].T, begun.state_dict()["W_enc"].T
    cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=1).mean())
    run.record({"published/encoder_cosine_with_start": cosine})
    return ["this run's dictionary: cosine of a latent's direction with its random start, mean", f"{cosine:.4f}"]
