"""A model that Unweave trained."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from unweave.core.registry import register
from unweave.models.base import ModelConfig
from unweave.models.classifier import load_model


@register("trained")
@dataclass(frozen=True, kw_only=True)
class Trained(ModelConfig):
    """A model from an earlier run: the folder `artifacts/model` of a run, say."""

    folder: Path
    "the model's folder"

    def located(self) -> "Trained":
        """With the folder in full."""
        return dataclasses.replace(self, folder=self.folder.expanduser().resolve())

    def untrained(self) -> None:
        """Nothing: only what trained it knows how it started."""
        return

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The module with its weights; shape, classes and generator do not matter to it.

        Raises:
            StoreError: the folder holds no model.
        """
        return load_model(self.folder).module
