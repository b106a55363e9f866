"""The flags of every command that runs a network over data."""

from dataclasses import dataclass, field
from pathlib import Path

from unweave.datasets.base import DatasetConfig, Split
from unweave.datasets.digits import Digits
from unweave.models.base import ModelConfig
from unweave.models.mlp import MLP
from unweave.recipes.sources import Source


@dataclass(frozen=True, kw_only=True)
class NetworkArguments:
    """A network, and what it is shown."""

    data: DatasetConfig = field(default_factory=Digits)
    "the images or texts"
    split: Split = "train"
    "which part of them"
    data_dir: Path | None = None
    "where the data lie, for data sets made of files"
    model: ModelConfig = field(default_factory=MLP)
    "the network"
    batch_size: int = 256
    "examples a forward pass"

    def source(self, seed: int) -> Source:
        """Where the rows will come from."""
        return Source(data=self.data, split=self.split, data_dir=self.data_dir, model=self.model, seed=seed)
