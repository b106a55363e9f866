"""The embedded default: real digits, a small network, a TopK dictionary. No download."""

from unweave.datasets.digits import Digits
from unweave.dictionaries.topk import TopK
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.recipes.base import Run, recipe
from unweave.recipes.classifier import ClassifierStudy, study_classifier
from unweave.train import Training

DEFAULT = ClassifierStudy(
    data=Digits(),
    model=MLP(widths=(64, 64), mean=0.3, std=0.38),
    fit=Fit(epochs=30, batch_size=32),
    sae=TopK(d_sae=128, k=8),
    training=Training(epochs=150, batch_size=128),
)


@recipe("digits", default=DEFAULT)
def digits(config: ClassifierStudy, run: Run) -> None:
    """What do the latents of a small network on scikit-learn's digits stand for? Seconds, no download."""
    study_classifier(config, run)
