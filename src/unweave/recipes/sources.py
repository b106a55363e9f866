"""Where a store's examples and model come from: written beside it, and found again from there."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.core.seeds import torch_generator
from unweave.datasets.base import Dataset, DatasetConfig, ImageDataset, Split, TextDataset
from unweave.datasets.streamed import StreamedImages
from unweave.models.adopted import ReadsText
from unweave.models.base import ModelConfig
from unweave.store.activations import Activations

DETAIL = "source"
"""The store's manifest keeps it under this name."""


def open_data(data: DatasetConfig, model: ModelConfig | None, split: Split, data_dir: Path | None = None) -> Dataset:
    """One split of a data set; of images whose size nobody named, at the size that the model's preprocessing asks for.

    Raises:
        InputError: the data cannot be read.
    """
    return (data if model is None else data.for_model(model.framing())).load(split, data_dir)


def build_model(model: ModelConfig, data: Dataset, seed: int) -> nn.Module:
    """The network for examples like these.

    Raises:
        InputError: the data are texts and the model reads none, or it cannot be built.
    """
    generator = torch_generator(seed, "model")
    if isinstance(data, (ImageDataset, StreamedImages)):
        module = model.build(data.shape, len(data.class_names), generator)
        if callable(getattr(module, "tokenize", None)):
            raise InputError("the data are images, and the model reads texts; choose texts by --data, or another model")
        return module
    if isinstance(data, TextDataset) and not model.reads_text:
        raise InputError(f"the data are texts, and the model {model.kind} reads images; --model pretrained reads texts")
    module = model.build((0, 0, 0), len(data.class_names), generator)
    if not callable(getattr(module, "tokenize", None)):
        raise InputError(
            f"the data are texts, and {type(module).__name__} has no tokenizer of its own (a method `tokenize` from a "
            "list of texts to keyword arguments); choose images by --data, or a model of texts"
        )
    return module


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a store of activations was captured from.

    Attributes:
        data: the examples.
        split: which part of them.
        data_dir: where they lie.
        model: the network.
        seed: what its start came from, where it has no weights of its own.
    """

    data: DatasetConfig
    split: Split = "train"
    data_dir: Path | None = None
    model: ModelConfig
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values; folders in full, so that they are found from everywhere on this machine."""
        folder = None if self.data_dir is None else self.data_dir.expanduser().resolve()
        found = dataclasses.replace(self, data=self.data.located(), model=self.model.located(), data_dir=folder)
        said: dict[str, Any] = to_json(found)
        return said

    def dataset(self, data_dir: Path | None = None) -> Dataset:
        """The examples.

        Args:
            data_dir: where they lie now; by default where they lay.

        Raises:
            InputError: they cannot be read.
        """
        return open_data(self.data, self.model, self.split, data_dir or self.data_dir)

    def captured(self, activations: Activations, data_dir: Path | None = None) -> Dataset:
        """The examples, once it is certain that they are those of a store.

        Raises:
            InputError: they cannot be read, or are others by now.
        """
        data = self.dataset(data_dir)
        if data.id != activations.manifest.inputs.get("examples"):
            raise InputError(
                f"the examples of {activations.folder} are no longer those that were captured; give theirs by --data "
                "and --data-dir"
            )
        return data

    def build(self, data: Dataset) -> nn.Module:
        """The network, for these examples."""
        return build_model(self.model, data, self.seed)


def source_of(activations: Activations) -> Source | None:
    """What a store was captured from, where its manifest says so.

    Raises:
        StoreError: what it says cannot be read, or names what this version does not have.
    """
    said = activations.manifest.details.get(DETAIL)
    if said is None:
        return None
    try:
        return from_json(Source, said, where=f"{activations.folder}: {DETAIL}")
    except InputError as error:
        raise StoreError(f"{error}; give --data and --model instead") from None


def reader_of(model: nn.Module) -> ReadsText:
    """The model itself, where it reads texts.

    Raises:
        InputError: it has no tokenizer of its own.
    """
    if not isinstance(model, ReadsText):
        raise InputError(f"{type(model).__name__} has no tokenizer of its own (methods `tokenize` and `tokens`)")
    return model


def captured_dataset(activations: Activations, data_dir: Path | None = None) -> Dataset | None:
    """The examples that a store was captured of, where its manifest says which they were.

    Raises:
        InputError: they cannot be read, or are others by now.
    """
    source = source_of(activations)
    return None if source is None else source.captured(activations, data_dir)
