"""A dictionary of an MLP's second layer on MNIST."""

from collections.abc import Mapping

from unweave.analyze.stage import label_metrics_when_shuffled
from unweave.datasets.mnist import Mnist
from unweave.dictionaries.relu_notebook import NotebookReLU
from unweave.dictionaries.sae import SAEConfig
from unweave.dictionaries.topk import TopK
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.recipes.base import Reported, Run, recipe
from unweave.recipes.classifier import ClassifierStudy, Studied, study_classifier
from unweave.train import Training

_MODEL = MLP(widths=(128, 128), mean=0.1307, std=0.3081)
_FIT = Fit(optimizer="sgd", learning_rate=1e-3, epochs=5, batch_size=64)

DEFAULT = ClassifierStudy(
    data=Mnist(),
    model=_MODEL,
    fit=_FIT,
    sae=TopK(d_sae=1024, k=16),
    training=Training(epochs=20, batch_size=512),
)

# What the notebook computed: free decoder norms, the penalty summed over the batch, rows in the order they are stored.
PUBLISHED = ClassifierStudy(
    data=Mnist(),
    model=_MODEL,
    fit=_FIT,
    sae=NotebookReLU(d_sae=1024, l1=3e-3, l1_reduction="sum", b_dec="zero", init="torch", decoder_norm="free"),
    training=Training(
        epochs=200,
        batch_size=64,
        learning_rate=1e-3,
        betas=(0.9, 0.999),
        schedule="step",
        step_epochs=10,
        step_factor=0.99,
        shuffle=False,
        scale_inputs=False,
    ),
)

# Its L2 is the sum over the 938 batches of an epoch of the mean squared error of a batch's rows.
REPORTED = (Reported("notebook, epoch 56", 30.76, 1031.6 / 938),)


@recipe("mnist-mlp", default=DEFAULT, published=PUBLISHED, reported=REPORTED)
def mnist_mlp(config: ClassifierStudy, run: Run) -> None:
    """What do the latents of an MLP's second layer on MNIST stand for, and is it more than selection gives?"""
    studied = study_classifier(config, run)
    misaligned = label_metrics_when_shuffled(studied.atlas, studied.test_rows, seed=run.seed)
    run.record(misaligned, condition="misaligned")
    lengths = studied.sae.directions().norm(dim=1)
    run.record({"dictionary/decoder_norm_mean": float(lengths.mean())})
    run.findings += _findings(config, studied, run.metrics)


def _findings(config: ClassifierStudy, studied: Studied, metrics: Mapping[str, float]) -> list[str]:
    """What this experiment shows beyond the table, and in what its published form went wrong."""
    aligned, misaligned = (metrics.get(f"labels/mutual_information_mean{of}", 0.0) for of in ("", "@misaligned"))
    said = [
        f"With each label at its own image firing tells {aligned:.4f} bits about the class on average; with the labels "
        f"dealt out at random, which is what labels in another order than the activations amount to, {misaligned:.4f}."
    ]
    if isinstance(config.sae, SAEConfig) and config.sae.decoder_norm != "unit":
        busiest = float(studied.atlas.column("rate").max())
        said.append(
            f"Decoder rows were not kept at length 1 (their mean is {metrics['dictionary/decoder_norm_mean']:.1f} by "
            f"now), and growing them bypasses the penalty. {metrics['dictionary/live']:.0f} of {studied.sae.d_sae} "
            f"latents are live, the busiest on {100 * busiest:.0f} % of all rows: no overcomplete dictionary."
        )
    return said
