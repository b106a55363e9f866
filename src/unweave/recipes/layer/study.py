"""What is asked of a layer, and what it is asked of: the network, its examples, and what its answers are."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from unweave.analyze import Analysis
from unweave.capture import Capture
from unweave.core.errors import InputError
from unweave.datasets.base import Dataset, DatasetConfig, ImageDataset, Split, TextDataset
from unweave.datasets.digits import Digits
from unweave.datasets.drawn import drawn
from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.models.base import ModelConfig
from unweave.models.classifier import train_classifier
from unweave.models.cnn import CNN
from unweave.models.fitting import Fit
from unweave.models.hooks import Side
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning
from unweave.recipes.answers import Answers, answers_to
from unweave.recipes.base import Run
from unweave.recipes.probe import probe
from unweave.recipes.sources import build_model, open_data
from unweave.store.layout import read_grid
from unweave.train import Training

SPLITS: tuple[Split, Split] = ("train", "test")
_ROWS_A_LATENT = 32
_MOST_LATENTS = 16_384
_ARCHITECTURES = ("cnn", "linear", "mlp", "tanh")


@dataclass(frozen=True, kw_only=True)
class LayerStudy:
    """A layer of a network, and the data that it is looked at with."""

    data: DatasetConfig = field(default_factory=Digits)
    "the images or texts"
    model: ModelConfig = field(default_factory=lambda: CNN(mean=0.3, std=0.38))
    "the network; one of your own: --model pretrained, custom, trained"
    fit: Fit = field(default_factory=lambda: Fit(epochs=25, batch_size=32))
    "how the network is trained, where it is one that Unweave trains"
    teach: Literal["auto", "yes", "no"] = "auto"
    "train the network first; auto: where it is an architecture without weights"
    at: str = "relu2"
    "the layer: dotted name of the module"
    rows: RowMeaning = "position"
    "what a row is: position (each place or token), pool, flatten, cls"
    side: Side = "output"
    "what the module gives, or what it is given"
    prefix: Prefix = "drop"
    "whether tokens before those of an image's patches (class token, registers) give rows: keep or drop"
    grid: str | None = None
    "places of the layer's grid, and tokens before them, where shapes leave it open: 7x7, 7x7+1, or 7x7:last"
    examples: int = 5000
    "examples of each split that are looked at, drawn at random where there are more"
    sae: DictionaryConfig = field(default_factory=BatchTopK)
    "the dictionary"
    sizes: Literal["chosen", "given"] = "chosen"
    "latents, and how many are active: chosen by the number and width of the rows, or as the dictionary says"
    training: Training = field(default_factory=lambda: Training(steps=3000, batch_size=1024))
    "how the dictionary is trained"
    analysis: Analysis = field(default_factory=Analysis)
    "what is found out about each latent"
    moved: int = 4
    "latents that are moved, for dose-response curves"
    moved_examples: int = 200
    "held-out examples on which the reconstruction is put in and latents are moved"

    def __post_init__(self) -> None:
        if self.grid is not None:
            read_grid(self.grid)
        for name, least in (("examples", 2), ("moved", 0), ("moved_examples", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def taught(self) -> bool:
        """Whether the network is trained first."""
        return self.teach == "yes" or (self.teach == "auto" and self.model.kind in _ARCHITECTURES)

    def what(self, data: Dataset) -> Capture:
        """What is captured of examples like these."""
        plain = isinstance(data, TextDataset) or self.rows not in ("position", "pool")
        return Capture(
            at=(self.at,),
            rows=self.rows,
            side=self.side,
            prefix="keep" if plain else self.prefix,
            layout=None if self.grid is None else read_grid(self.grid),
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with the examples that it is looked at with.

    Attributes:
        module: the network.
        untrained: the same network with a random start; None where it cannot be had.
        train: examples that the dictionary learns from.
        test: held-out ones.
        answers: what it answers each example with.
        judged: whether the data's classes are those, so that answers can be right or wrong.
        accuracy: on held-out examples, where it was trained here.
    """

    module: nn.Module
    untrained: nn.Module | None
    train: Dataset
    test: Dataset
    answers: Answers
    judged: bool
    accuracy: float | None

    @property
    def names(self) -> list[str] | None:
        """Of the classes that its answers are logits of; None where they are something else."""
        return self.answers.class_names

    @property
    def texts(self) -> bool:
        """Whether it reads texts."""
        return isinstance(self.test, TextDataset)

    @property
    def labelled(self) -> bool:
        """Whether the examples have classes to tell apart."""
        return len(torch.unique(self.test.labels)) > 1


def open_subject(config: LayerStudy, run: Run) -> Subject:
    """Read the data, and build the network, or train it where it is one that Unweave trains.

    Raises:
        InputError: either cannot be had, or the network has no such layer.
    """
    whole = [open_data(config.data, config.model, split, run.data_dir) for split in SPLITS]
    module = build_model(config.model, whole[0], run.seed)
    module = module.to(run.runtime.torch_device())
    probe(module, whole[0], config.what(whole[0]))  # what is wrong costs seconds here, and a whole training later
    accuracy = None
    if config.taught:
        train, test = whole
        if not isinstance(train, ImageDataset) or not isinstance(test, ImageDataset):
            raise InputError(f"the model {config.model.kind} is trained on images; choose images by --data")
        trained = train_classifier(
            config.model, config.fit, train, test, seed=run.seed, out=run.place("model"), runtime=run.runtime
        )
        module, accuracy = trained.module, trained.test_accuracy
        run.record({"model/test_accuracy": accuracy})
    beside = config.model.untrained()
    untrained = None if beside is None else _untrained(beside, config, whole[0], run)
    some = [drawn(one, config.examples, run.seed) for one in whole]
    device = run.runtime.torch_device()
    module = module.to(device).eval()
    answers = answers_to(module, some[1], taught=config.taught)
    judged = answers.class_names is not None and answers.class_names == list(some[1].class_names)
    return Subject(module, untrained, some[0], some[1], answers, judged, accuracy)


def _untrained(beside: ModelConfig, config: LayerStudy, data: Dataset, run: Run) -> nn.Module | None:
    """The same network with a random start: another draw than the one that training began with."""
    if beside == config.model and not config.taught:
        return None  # it is untrained as it is, or nobody knows
    module = build_model(beside, data, run.seed + 1)
    return module.to(run.runtime.torch_device()).eval()


def sized(config: LayerStudy, rows: int, width: int) -> DictionaryConfig:
    """The dictionary with sizes that suit the rows.

    Eight times as many latents as the rows are wide, but so that 32 rows come to each; of them an eighth of the width
    active, from 4 to 64, and half of the latents at most. Powers of two.
    """
    fields = {one.name for one in dataclasses.fields(config.sae)}
    if config.sizes == "given":
        return config.sae
    most = max(16, min(8 * width, rows // _ROWS_A_LATENT, _MOST_LATENTS))
    d_sae = 2 ** int(math.log2(most))
    chosen = {"d_sae": d_sae, "k": min(2 ** round(math.log2(min(max(width / 8, 4), 64))), d_sae // 2)}
    return dataclasses.replace(config.sae, **{name: value for name, value in chosen.items() if name in fields})


def few(subject: Subject, config: LayerStudy, seed: int) -> Dataset:
    """The held-out examples on which latents are moved."""
    return drawn(subject.test, config.moved_examples, seed + 1)
