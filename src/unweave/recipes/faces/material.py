"""What the recipe `faces` works on: images, the network before and after fine-tuning, and what it makes of them."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from unweave.analyze import Analysis
from unweave.capture import capture
from unweave.core.config import fingerprint
from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.datasets.base import DatasetConfig, ImageDataset
from unweave.datasets.photos import PhotoImages, Photos, Unlabelled, labelled
from unweave.dictionaries.base import DictionaryConfig
from unweave.models.base import ModelConfig
from unweave.models.contrastive import Contrastive, Views, fine_tune, turned
from unweave.models.embedding import start_embedding
from unweave.models.fitting import Curves
from unweave.models.hooks import resolve
from unweave.models.resnet18 import ResNet18
from unweave.recipes.base import Run
from unweave.store.activations import Activations
from unweave.train import Training

TUNED, UNTUNED = "tuned", "untuned"
ALTERED = ("turned", "first view", "second view")
_READ = 128


@dataclass(frozen=True, kw_only=True)
class Faces:
    """An image embedding that is fine-tuned without labels, and a dictionary of it."""

    data: DatasetConfig = field(default_factory=Photos)
    "the images: any folder"
    model: ModelConfig = field(default_factory=ResNet18)
    "the network that embeds them"
    fit: Contrastive
    "how it is fine-tuned"
    at: str = "unit"
    "what is taken apart: the embedding at length 1 (unit), or as it is pooled (embedding)"
    sae: DictionaryConfig
    "the dictionary"
    training: Training
    "how the dictionary is trained"
    analysis: Analysis = field(default_factory=Analysis)
    "what is found out about each latent"
    checked: int = 500
    "held-out images on which collapse and orientation are checked, drawn at random"
    shown: int = 4
    "latents of each condition whose strongest images the page shows"
    skip: int = 16
    "the page shows latents below this number only, and a rating study only others: nobody rates what they have seen"
    queries: int = 4
    "held-out images whose nearest neighbours the page shows"
    permutations: int = 99
    "permutations behind the null of the attributes"

    def __post_init__(self) -> None:
        for name, least in {"checked": 8, "shown": 1, "skip": 1, "queries": 1, "permutations": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Material:
    """Images, and what the network makes of them before and after fine-tuning.

    Attributes:
        train: images to train on.
        test: images to judge on.
        modules: the network by condition, `tuned` and `untuned`.
        curves: how fine-tuning went.
        origin: where the starting weights came from, in words.
        pretrained: whether somebody had trained them.
        train_rows: embeddings of the tuned network.
        test_rows: embeddings by condition.
        checks: embeddings of the checked images, turned and in two views, by condition.
        checked: which of the held-out images these are.
    """

    train: ImageDataset
    test: ImageDataset
    modules: Mapping[str, nn.Module]
    curves: Curves
    origin: str
    pretrained: bool
    train_rows: Activations
    test_rows: Mapping[str, Activations]
    checks: Mapping[str, Activations]
    checked: Int64[np.ndarray, " n"]

    @cached_property
    def embedded(self) -> dict[str, Float32[np.ndarray, "n d"]]:
        """Embeddings of all held-out images in memory, by condition."""
        return {name: in_memory(rows) for name, rows in self.test_rows.items()}

    def altered(self, condition: str) -> dict[str, Float32[np.ndarray, "n d"]]:
        """Embeddings of the checked images, as they are and altered."""
        parts = np.split(in_memory(self.checks[condition]), len(ALTERED))
        return {"image": self.embedded[condition][self.checked], **dict(zip(ALTERED, parts, strict=True))}

    @property
    def labels(self) -> Int64[np.ndarray, " n"] | None:
        """Classes of the held-out images, where there are any."""
        return self.test.labels.numpy() if len(self.test.class_names) > 1 else None

    @property
    def layout(self) -> str:
        """What kind of folder the images came from, in words."""
        return self.test.layout if isinstance(self.test, PhotoImages) else "a data set with classes"


def in_memory(rows: Activations) -> Float32[np.ndarray, "n d"]:
    """All rows of a store."""
    return np.concatenate([block.float().numpy() for block in rows.blocks(65_536)])


def prepare(config: Faces, run: Run) -> Material:
    """Load the images, fine-tune the network, and embed the images before and after."""
    train, test = (config.data.images(split, run.data_dir) for split in ("train", "test"))
    start = start_embedding(config.model, train.shape, seed=run.seed, out=run.place(f"model@{UNTUNED}"))
    resolve(start.module, config.at)
    tuned = fine_tune(
        config.model,
        copy.deepcopy(start.module),
        config.fit,
        train,
        seed=run.seed,
        out=run.place("model"),
        runtime=run.runtime,
    )
    untuned = start.module.to(run.runtime.torch_device())
    modules = {TUNED: tuned.module, UNTUNED: untuned}
    stores = {}
    for role, condition, images in (
        ("activations@train", TUNED, labelled(train)),
        ("activations@test", TUNED, labelled(test)),
        (f"activations@test-{UNTUNED}", UNTUNED, labelled(test)),
    ):
        stores[role] = capture(modules[condition], images, at=config.at, out=run.place(role), batch_size=_READ)
    count = min(config.checked, len(test))
    if count < 8:
        raise InputError(f"there are {len(test)} held-out images; the checks need at least 8")
    checked = torch.randperm(len(test), generator=torch_generator(run.seed, "checked"))[:count].sort().values
    altered = Unlabelled(AlteredImages(test, checked, run.seed, config.fit))
    checks = {
        name: capture(module, altered, at=config.at, out=run.place(f"checks@{name}"), batch_size=_READ)
        for name, module in modules.items()
    }
    return Material(
        train,
        test,
        modules,
        tuned.curves,
        start.origin,
        start.pretrained,
        stores["activations@train"],
        {TUNED: stores["activations@test"], UNTUNED: stores[f"activations@test-{UNTUNED}"]},
        checks,
        checked.numpy(),
    )


class AlteredImages(ImageDataset):
    """Some images of a data set three times over: turned by 180°, and in two random views."""

    def __init__(self, images: ImageDataset, index: Int64[Tensor, " n"], seed: int, fit: Contrastive) -> None:
        self._images, self._index = images, index
        self._views = [
            Views.draw(len(index), torch_generator(seed, "checked view", name), fit.smallest_crop, fit.jitter)
            for name in ALTERED[1:]
        ]
        self.labels = torch.zeros(len(ALTERED) * len(index), dtype=torch.int64)
        self.class_names = ["image"]
        settings = [fit.smallest_crop, fit.jitter]
        self.id = fingerprint("altered", images.id, index.tolist(), seed, settings)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._images.shape

    def pixels(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels of the images at these indices; a view depends on its image and the seed alone."""
        which, place = index // len(self._index), index % len(self._index)
        images = self._images.pixels(self._index[place]).float() / 255
        made = turned(images)
        for kind, views in enumerate(self._views, start=1):
            chosen = which == kind
            made[chosen] = views.select(place[chosen]).of(images[chosen])
        return (made * 255).round().to(torch.uint8)

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, in their order."""
        return map(self.pixels, index)
