"""Networks that embed images: what they share, and how they lie on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.seeds import torch_generator
from unweave.models.base import ModelConfig
from unweave.models.classifier import KIND, load_model
from unweave.models.fitting import Curves
from unweave.store.artifact import Draft, Identity, existing, read_manifest, writing
from unweave.store.files import save_table, save_tensors

# ImageNet's channel means and standard deviations of pixels in [0, 1], which its published weights expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ImageNetNormalise(nn.Module):
    """(x − mean) / std, channel by channel; grey images become three equal channels."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalised pixels."""
        return (x - self.mean) / self.std


class Unit(nn.Module):
    """Rows at length 1: what cosines see. A row of zeros stays one."""

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Each row divided by its length."""
        return normalize(x, dim=1)


class EmbeddingNet(nn.Module):
    """Images in [0, 1] to embeddings of length 1; hook points `embedding` (as pooled) and `unit` (at length 1).

    Attributes:
        width: of an embedding.
        origin: where its starting weights came from, in words; empty where it was read from an artifact.
        pretrained: whether they were trained.
    """

    def __init__(self, trunk: nn.Module, width: int, *, origin: str = "", pretrained: bool = False) -> None:
        super().__init__()
        self.normalise = ImageNetNormalise()
        self.trunk = trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
        self.embedding = nn.Flatten(1)
        self.unit = Unit()
        self.width = width
        self.origin = origin
        self.pretrained = pretrained

    def raw(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Embeddings as the network pools them, at any length."""
        pixels = self.normalise(x).contiguous(memory_format=torch.channels_last)
        embedded: Tensor = self.embedding(self.trunk(pixels).pooler_output)
        return embedded

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Embeddings at length 1."""
        unit: Tensor = self.unit(self.raw(x))
        return unit


@runtime_checkable
class Startable(Protocol):
    """A model configuration whose starting weights may come from elsewhere."""

    weights: str

    def without_weights(self) -> ModelConfig:
        """The same network without a source of weights: what an artifact, which holds weights, is read with."""
        ...


@dataclass(frozen=True)
class Start:
    """A network as fine-tuning finds it, and where its weights came from.

    Attributes:
        module: in evaluation mode.
        origin: in words.
        pretrained: whether somebody trained them.
    """

    module: EmbeddingNet
    origin: str
    pretrained: bool


def start_embedding(config: ModelConfig, shape: tuple[int, int, int], *, seed: int, out: Path) -> Start:
    """Build a network and write it as an artifact, or read it back: what the weights were is settled once.

    A run that found the hub out of reach goes on with the weights it began with, even where the hub is back.

    Raises:
        InputError: the configuration builds no embedding network, its weights are not there, or `out` holds something
            else.
    """
    asked = config.weights if isinstance(config, Startable) else ""
    identity = Identity(
        kind=KIND,
        config={"model": bare(config), "weights": asked},
        inputs={"shape": "x".join(map(str, shape))},
        seed=seed,
    )
    if not existing(out, identity):
        built = _built(config, shape, seed)
        with writing(out, identity) as draft:
            write_embedding(draft, built, shape, {"step": [0.0], "epoch": [0.0]})
            draft.details.update(origin=built.origin, pretrained=built.pretrained)
    module = load_model(out).module
    assert isinstance(module, EmbeddingNet)
    details = read_manifest(out).details
    return Start(module, str(details["origin"]), bool(details["pretrained"]))


def _built(config: ModelConfig, shape: tuple[int, int, int], seed: int) -> EmbeddingNet:
    module = config.build(shape, 1, torch_generator(seed, "model"))
    if not isinstance(module, EmbeddingNet):
        raise InputError(f"a model of kind {config.kind!r} gives no embedding; choose resnet-18")
    return module


def bare(config: ModelConfig) -> ModelConfig:
    """A configuration that builds the network without looking for weights."""
    return config.without_weights() if isinstance(config, Startable) else config


def write_embedding(draft: Draft, module: nn.Module, shape: tuple[int, int, int], curves: Curves) -> None:
    """Put a network into an artifact as `load_model` reads it."""
    save_tensors(draft.folder / "model.safetensors", {name: t.clone() for name, t in module.state_dict().items()})
    save_table(draft.folder / "curves.parquet", curves)
    draft.details.update(shape=list(shape), classes=1)


def tuned_identity(config: ModelConfig, start: nn.Module, fit: object, images: str, seed: int) -> Identity:
    """What a fine-tuned network's artifact is."""
    inputs = {"train": images, "start": hash_module(start)}
    return Identity(kind=KIND, config={"model": bare(config), "fit": fit}, inputs=inputs, seed=seed)
