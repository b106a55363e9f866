"""What the recipes about one classifier share: model, activations, dictionary, atlas, controls, and what they show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from unweave.analyze import Analysis, Atlas, analyze
from unweave.capture import Capture, capture
from unweave.core.distributed import ranks
from unweave.core.seeds import torch_generator
from unweave.datasets.base import DatasetConfig, ImageDataset
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.random_directions import RandomDirections
from unweave.metrics.components import components_to_match
from unweave.models.base import ModelConfig
from unweave.models.classifier import TrainedModel, train_classifier
from unweave.models.fitting import Fit
from unweave.recipes.base import Run
from unweave.recipes.probe import probe
from unweave.store.activations import Activations
from unweave.train import Training, train

CONTROLS = ("neurons", "pca", "random")
_CALLED = {"neurons": "raw neurons", "pca": "principal components", "random": "random directions"}


@dataclass(frozen=True, kw_only=True)
class ClassifierStudy:
    """A classifier, one of its layers, and a dictionary of that layer."""

    data: DatasetConfig
    "the images"
    model: ModelConfig
    "the network under study"
    fit: Fit = field(default_factory=Fit)
    "how the network is trained"
    at: str = "fc2"
    "the layer: dotted name of the module whose output is taken apart"
    sae: DictionaryConfig
    "the dictionary"
    training: Training = field(default_factory=Training)
    "how the dictionary is trained"
    analysis: Analysis = field(default_factory=Analysis)
    "what is found out about each latent"


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of the trained model: its rows on both splits, and the images of the one that is judged on."""

    test: ImageDataset
    train_rows: Activations
    test_rows: Activations


@dataclass(frozen=True, eq=False)
class Studied(Layer):
    """What the stages left."""

    sae: Dictionary
    atlas: Atlas


def capture_layer(config: ClassifierStudy, run: Run) -> Layer:
    """Train the model and capture the layer on both splits."""
    train_images = config.data.images("train", run.data_dir)
    test_images = config.data.images("test", run.data_dir)
    untrained = config.model.build(train_images.shape, len(train_images.class_names), torch_generator(run.seed))
    probe(untrained, train_images, Capture(at=(config.at,)))  # costs seconds here, and a whole training later
    place = run.place("model")

    def trained() -> TrainedModel:
        return train_classifier(
            config.model, config.fit, train_images, test_images, seed=run.seed, out=place, runtime=run.runtime
        )

    model = ranks().in_turn(trained)
    run.record({"model/test_accuracy": model.test_accuracy})
    train_rows = capture(model.module, train_images, at=config.at, out=run.place("activations@train"), batch_size=2048)
    test_rows = capture(model.module, test_images, at=config.at, out=run.place("activations@test"), batch_size=2048)
    return Layer(test_images, train_rows, test_rows)


def study_classifier(config: ClassifierStudy, run: Run) -> Studied:
    """Train the model, capture the layer on both splits, train the dictionary, and judge it beside its controls.

    Everything is judged on test rows. Controls have as many active latents a row as the dictionary was measured to
    have.
    """
    layer = capture_layer(config, run)
    test_images, train_rows, test_rows = layer.test, layer.train_rows, layer.test_rows
    sae = train(train_rows, config.sae, config.training, seed=run.seed, out=run.place("sae"), runtime=run.runtime)
    atlas = analyze(sae, test_rows, images=test_images, analysis=config.analysis, seed=run.seed, out=run.place("atlas"))
    run.record(atlas.metrics)
    k = max(1, round(atlas.metrics["dictionary/l0"]))
    fitted: dict[str, Dictionary] = {}
    for name, control in controls(sae.d_sae, k).items():
        fitted[name] = train(train_rows, control, seed=run.seed, out=run.place(f"sae@{name}"), runtime=run.runtime)
        beside = analyze(
            fitted[name],
            test_rows,
            images=test_images,
            analysis=config.analysis,
            seed=run.seed,
            out=run.place(f"atlas@{name}"),
        )
        run.record(beside.metrics, condition=name)
    run.record({"dictionary/pca_components_to_match": _components_to_match(atlas, fitted["pca"], test_rows)})
    run.findings += findings(run.metrics, live_share=config.analysis.live_share)
    return Studied(test_images, train_rows, test_rows, sae, atlas)


def _components_to_match(atlas: Atlas, pca: Dictionary, rows: Activations) -> float:
    directions = torch.nn.functional.normalize(pca.directions()[: rows.d_in], dim=1)
    explained = atlas.metrics["dictionary/explained_variance"]
    return components_to_match(explained, rows.blocks(8192), pca.decode(torch.zeros(pca.d_sae)), directions)


def controls(d_sae: int, k: int) -> dict[str, DictionaryConfig]:
    """What a dictionary is measured against, at the same number of active latents a row."""
    return {"neurons": Neurons(k=k), "pca": PCA(k=k), "random": RandomDirections(d_sae=d_sae, k=k)}


def _components(number: float) -> str:
    """The components that every row shares, where enough of them match the dictionary."""
    if math.isnan(number):
        return ""
    first = "The first principal component" if number == 1 else f"The first {number:.0f} principal components"
    return f" {first}, the same for every row, explain{'s' if number == 1 else ''} as much."


def findings(metrics: Mapping[str, float], *, live_share: float = 1e-3) -> list[str]:
    """What the numbers allow to say, and what not, in sentences."""

    def of(name: str, condition: str = "") -> float:
        return metrics.get(f"{name}@{condition}" if condition else name, float("nan"))

    explained = {name: f"{100 * of('dictionary/explained_variance', name):.1f} %" for name in ("", *CONTROLS)}
    live, dead, d_sae = of("dictionary/live"), of("dictionary/dead"), of("dictionary/d_sae")
    said = [
        f"The dictionary explains {explained['']} of the variance of held-out rows with {of('dictionary/l0'):.1f} "
        f"active latents a row; PCA with as many explains {explained['pca']}, raw neurons {explained['neurons']}, "
        f"random directions {explained['random']}.{_components(of('dictionary/pca_components_to_match'))}",
        f"{live:.0f} of {d_sae:.0f} latents are live (fire on more than {100 * live_share:g} % of rows), {dead:.0f} "
        "never fire.",
    ]
    share = "labels/top_class_share_median"
    ours, beside = of(share), [(of(share, name), name) for name in CONTROLS if not math.isnan(of(share, name))]
    if math.isnan(ours) or not beside:
        return said
    best = max(beside)
    line = f"In half of the live latents one class makes up {100 * ours:.0f} % or more of what activates them"
    if best[0] >= ours:
        line += (
            f", but {_CALLED[best[1]]} under the same rule reach {100 * best[0]:.0f} %: class selectivity alone does "
            "not show that the dictionary found anything."
        )
    else:
        line += f"; the best control ({best[1]}) reaches {100 * best[0]:.0f} %."
    return [*said, line]
