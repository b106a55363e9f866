"""The recipe `instances`, layer by layer: similarity of the activations beside its nulls."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from unweave.compare import Comparison, compare_all
from unweave.core.seeds import numpy_generator
from unweave.datasets.mnist import Mnist
from unweave.figures.comparison import WORDS, row_histograms
from unweave.metrics.similarity_rows import row_similarities, unit_rows
from unweave.models.tanh import Tanh
from unweave.recipes.base import Run
from unweave.recipes.instances.networks import Instances, Material

# Mean and deviation over images that the notebook printed for its one pair of networks.
_PUBLISHED = {
    "fc0": ("0.066 ± 0.156", "0.967 ± 0.031", "−0.014 ± 0.171", "0.973 ± 0.024"),
    "fc1": ("0.121 ± 0.201", "0.931 ± 0.059", "0.034 ± 0.195", "0.948 ± 0.039"),
}
_MEASURES = ("raw cosine", "sorted cosine", "raw r", "sorted r")
_HEADINGS = {"untrained": "untrained", "other_image": "other image", "noise": "noise", "shuffled": "shuffled"}


def compare_layers(config: Instances, run: Run, material: Material) -> dict[str, Comparison]:
    """Compare all pairs of instances at each layer, and enter the numbers."""
    found = {}
    for name in config.names:
        rows = {
            condition: {n.name: _first(config, material, name, n.name, condition) for n in material.networks}
            for condition in ("trained", "untrained")
        }
        found[name] = compare_all(
            rows["trained"],
            untrained=rows["untrained"],
            comparing=config.comparing,
            seed=run.seed,
            out=run.place(f"comparison@{name}"),
        )
        run.record(found[name].metrics(prefix=f"{name}/"))
    return found


def _first(config: Instances, material: Material, layer: str, network: str, condition: str) -> Tensor:
    return material.test_rows[layer, network, condition].rows(0, config.judged_images)


def tell_published(config: Instances, run: Run, material: Material) -> None:
    """The notebook's own question: sorted activations of one pair of networks, image by image."""
    a, b = (network.name for network in material.networks[:2])
    run.section(
        "What was published",
        "The notebook compares two networks image by image, and sorts each image's activations first, since units have "
        f"no common order. Here the first two instances, on {config.judged_images:,} test images. The same measure is "
        "taken where nothing can be shared.",
    )
    layers = {}
    published = _PUBLISHED if (config.data, config.model) == (Mnist(), Tanh()) else {}
    for name in config.names:
        values = _by_row(config, run, material, name, a, b)
        layers[name] = values["sorted cosine"]
        rows = []
        for measure, printed in zip(_MEASURES, published.get(name, [""] * len(_MEASURES)), strict=True):
            cells = [f"{v.mean():.3f} ± {v.std():.3f}" for v in values[measure].values()]
            rows.append([measure, *([printed] if published else []), *cells])
            run.record({f"{name}/pair_{measure.replace(' ', '_')}": float(values[measure]["observed"].mean())})
        heads = [name, *(["published"] if published else []), "as measured", "untrained", "other image", "noise"]
        note = "Mean ± deviation over images, one pair of networks."
        run.table(heads, rows, note=note, main=heads.index("as measured"))
    caption = (
        f"Cosine of the sorted activations of networks {a} and {b}, image by image ({config.judged_images:,} test "
        "images): as measured, and under three nulls. Untrained: the same networks before training. Other examples: "
        "each image of one network beside another image of the other. Noise: independent uniform draws over the range "
        "of each unit. "
        "What lies below 0.5 is counted in the first bin."
    )
    run.show("sorted_rows", row_histograms(layers, xlabel="cosine of sorted activations"), caption)


def _by_row(
    config: Instances, run: Run, material: Material, layer: str, a: str, b: str
) -> dict[str, dict[str, np.ndarray]]:
    """The notebook's four measures of every image, by condition."""
    x, y = (_first(config, material, layer, name, "trained").numpy() for name in (a, b))
    before = tuple(_first(config, material, layer, name, "untrained").numpy() for name in (a, b))
    generator = numpy_generator(run.seed, "image by image", layer)
    ring = generator.permutation(len(y))
    other = np.empty_like(y)
    other[ring] = y[np.roll(ring, 1)]
    noise = tuple(generator.uniform(v.min(0), v.max(0), v.shape).astype(np.float32) for v in (x, y))
    pairs = {"observed": (x, y), "untrained": before, "other_image": (x, other), "noise": noise}
    found: dict[str, dict[str, np.ndarray]] = {}
    for centred, kind in ((False, "cosine"), (True, "r")):
        for ordered in (False, True):
            measure = f"{'sorted' if ordered else 'raw'} {kind}"
            found[measure] = {
                condition: row_similarities(*(_unit(v, ordered=ordered, centred=centred) for v in both))
                for condition, both in pairs.items()
            }
    return found


def _unit(rows: np.ndarray, *, ordered: bool, centred: bool) -> np.ndarray:
    return unit_rows(np.sort(rows, axis=1) if ordered else rows, centred=centred)


def tell_layers(config: Instances, run: Run, found: Mapping[str, Comparison]) -> None:
    """Every measure beside its nulls."""
    pairs = len(next(iter(found.values())).pairs)
    run.section(
        "What two trainings share",
        f"Every measure of similarity over {_count(pairs)}, beside what it gives where there is nothing to find. "
        "A measure counts as evidence only where it lies above every null in every pair.",
    )
    for name, comparison in found.items():
        conditions = [c for c in comparison.conditions if c != "observed"]
        rows = [
            [
                WORDS[measure],
                f"{_number(comparison.mean(measure))} ± {comparison.of(measure).std():.3f}",
                *[_number(comparison.mean(measure, condition)) for condition in conditions],
                f"{comparison.of(measure, 'p').max():.3g}",
            ]
            for measure in comparison.measures
        ]
        heads = [name, "as measured", *[_HEADINGS[condition] for condition in conditions], "largest p"]
        note = (
            f"Means over {_count(pairs)} (± deviation); p against {comparison.permutations} orders of one side's rows "
            "(of its units, for the raw measures), the largest of all pairs."
        )
        run.table(heads, rows, note=note, main=1)
        caption = (
            f"Layer {name}: similarity of {_count(pairs)} of networks on {comparison.n:,} test images (a dot for each "
            "pair, a tick at the mean, which stands on the right), and the same measures for the networks before "
            "training, for another image on one side, for noise, and for shuffled rows."
        )
        run.show(f"similarity_{name}", comparison.figure(name), caption)


def layer_findings(found: Mapping[str, Comparison]) -> list[str]:
    """Whether the published evidence stands, and what does."""
    said = []
    for name, comparison in found.items():
        nulls = {c: comparison.mean("sorted_cosine", c) for c in comparison.conditions if c != "observed"}
        ours = comparison.mean("sorted_cosine")
        highest = max(nulls, key=lambda null: nulls[null])
        listed = ", ".join(f"{_HEADINGS[null]} {value:.3f}" for null, value in nulls.items())
        if nulls[highest] >= ours:
            said.append(
                f"{name}: sorted activations of two instances have a cosine of {ours:.3f}, and where nothing is shared "
                f"it is as high ({listed}). The published conclusion does not follow from it."
            )
        else:
            said.append(
                f"{name}: sorted activations of two instances have a cosine of {ours:.3f}; where nothing is shared it "
                f"reaches {nulls[highest]:.3f} ({listed})."
            )
        said.append(f"{name}: {comparison.sentence}")
    return said


def _number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no −0.000


def _count(pairs: int) -> str:
    return "one pair" if pairs == 1 else f"{pairs} pairs"
