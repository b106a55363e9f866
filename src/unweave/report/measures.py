"""How metrics are worded in the table of dictionary against controls."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A row of the table: metric, wording, what it means ({live} and {dense} are shares), and how it is written."""

    name: str
    label: str
    meaning: str
    write: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _bits(value: float) -> str:
    return f"{value:.3f}"


MEASURES = (
    Measure(
        "dictionary/explained_variance", "Explained variance", "1 − Σ‖x−x̂‖² / Σ‖x−mean‖² on held-out rows", _percent
    ),
    Measure("dictionary/l0", "L0", "mean number of active latents a row", lambda value: f"{value:.1f}"),
    Measure("dictionary/d_sae", "Latents", "width of the dictionary", _count),
    Measure("dictionary/live", "Live", "latents that fire on more than {live} of the rows", _count),
    Measure("dictionary/dead", "Dead", "latents that fire on none of the rows", _count),
    Measure("dictionary/dense", "Dense", "live latents that fire on more than {dense} of the rows", _count),
    Measure(
        "labels/mutual_information_mean",
        "Information, mean",
        "bits that firing tells about the class, live latents",
        _bits,
    ),
    Measure(
        "labels/mutual_information_max", "Information, most", "of the most informative live latent, in bits", _bits
    ),
    Measure(
        "labels/significant_share",
        "Beyond the null",
        "live latents whose information exceeds shuffled labels, q < 0.05",
        _percent,
    ),
    Measure(
        "labels/top_class_share_median",
        "Strongest class, median",
        "its share among the examples that activate a latent",
        _percent,
    ),
    Measure("labels/top_class_share_max", "Strongest class, most", "the purest live latent", _percent),
    Measure(
        "labels/top_examples_purity_mean",
        "Purity of the strongest",
        "share of the commonest class among a latent's strongest examples",
        _percent,
    ),
    Measure(
        "labels/average_precision_mean",
        "Best detector",
        "average precision of each class's best latent, mean over classes",
        _percent,
    ),
)

CONDITIONS = {
    "neurons": "the layer's own units; each side of a unit's mean is a latent",
    "pca": "principal components of the training rows; each side is a latent",
    "random": "directions drawn evenly from the sphere, never trained",
    "untrained": "the same dictionary of the same layer with random weights, on its rows of the same examples",
    "misaligned": "the dictionary again, its labels dealt out at random",
}
