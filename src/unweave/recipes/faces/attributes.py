"""Which attributes of the images go with which latents, where attributes are known."""

from collections.abc import Mapping

import numpy as np

from unweave.analyze import Atlas
from unweave.core.seeds import numpy_generator
from unweave.datasets.photos import PhotoImages
from unweave.figures.faces import attribute_precision
from unweave.metrics.attributes import BestLatents, best_latents
from unweave.metrics.entries import by_latent
from unweave.recipes.base import Run
from unweave.recipes.faces.material import Faces, Material

_CALLED = {"": "dictionary", "neurons": "raw coordinates", "pca": "PCA", "random": "random directions"}


def tell_attributes(config: Faces, run: Run, material: Material, atlases: Mapping[str, Atlas]) -> None:
    """For every attribute the latent that detects it best, beside controls and permuted images; nothing without any."""
    if not isinstance(material.test, PhotoImages) or material.test.attributes is None:
        return
    attributes = material.test.attributes
    count = attributes.values.sum(0)
    told = np.flatnonzero((count > 0) & (count < len(attributes.values)))
    if not len(told):
        return
    has = attributes.values[:, told]
    names = [attributes.names[int(j)] for j in told]
    found = {
        name: best_latents(
            by_latent(atlas.codes),
            has,
            permutations=config.permutations,
            generator=numpy_generator(run.seed, "attributes", name),
        )
        for name, atlas in atlases.items()
    }
    for name, best in found.items():
        run.record({"attributes/average_precision_mean": float(best.precision.mean())}, condition=name)
        run.record({"attributes/beyond_null": float((best.precision > best.null).mean())}, condition=name)
    _tell(config, run, names, found, rows=len(has))


def _tell(config: Faces, run: Run, names: list[str], found: Mapping[str, BestLatents], *, rows: int) -> None:
    ours = found[""]
    run.section(
        "Which attributes go with which latents",
        f"For each attribute the one latent, of all, that ranks the {rows:,} held-out images best (average precision). "
        "The best of many latents is good by chance, so beside it stands the 95th percentile of the best after the "
        f"images were permuted ({config.permutations} times).",
    )
    order = np.argsort(-(ours.precision - ours.share), kind="stable")
    run.show(
        "attributes",
        attribute_precision(
            [names[j] for j in order],
            {_CALLED[name]: best.precision[order] for name, best in found.items()},
            null=ours.null[order],
            share=ours.share[order],
        ),
        "Average precision of each attribute's best latent. Grey: from the share of images that have the attribute, "
        "which a latent that knows nothing reaches, to what the dictionary's best reaches on permuted images.",
    )
    cells = [
        [
            names[j],
            f"{100 * ours.share[j]:.1f} %",
            str(int(ours.latent[j])),
            f"{ours.precision[j]:.3f}",
            f"{ours.null[j]:.3f}",
            *(f"{best.precision[j]:.3f}" for name, best in found.items() if name),
        ]
        for j in order
    ]
    headings = ["attribute", "images", "latent", "its precision", "null", *(_CALLED[name] for name in found if name)]
    run.table(headings, cells, main=3)
    beaten = int((ours.precision > ours.null).sum())
    best = max((float(one.precision.mean()), _CALLED[name]) for name, one in found.items() if name)
    run.findings.append(
        f"{beaten} of {len(names)} attributes have a latent beyond the best of permuted images; mean average precision "
        f"of the best latents is {ours.precision.mean():.3f}, of the best control ({best[1]}) {best[0]:.3f}."
    )
