"""The flags of every command that runs a network over data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unweave.core.errors import InputError
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


def refuse_empty(at: Sequence[str], program: str) -> None:
    """Say that `--at ""` names no module: most often it is a variable of the shell that nobody has set.

    Raises:
        InputError: so it is.
    """
    if "" in at:
        raise InputError(
            f"--at has an empty name; give modules' dotted names, or globs in quotes: --at 'layer*.conv1' (see "
            f"{program} --help)"
        )
