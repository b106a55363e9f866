import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.store.rows import TensorRows


@pytest.fixture(scope="session")
def rows() -> Tensor:
    """200 rows of width 6: correlated, off centre, of unequal spread."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    return torch.randn(200, 6, generator=generator) @ mix * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]) + torch.arange(6.0)


@pytest.fixture(scope="session")
def small() -> Callable[[type[DictionaryConfig]], DictionaryConfig]:
    """A small configuration of any kind, whatever fields it has."""
    sizes = {"d_sae": 10, "k": 3}

    def make(cls: type[DictionaryConfig]) -> DictionaryConfig:
        return cls(**{f.name: sizes[f.name] for f in dataclasses.fields(cls) if f.name in sizes})

    return make


@pytest.fixture(scope="session")
def prepared(rows: Tensor) -> Callable[[DictionaryConfig], Dictionary]:
    """A dictionary with its start set from the rows, then moved off it, so that no weight is zero by chance."""

    def make(config: DictionaryConfig) -> Dictionary:
        dictionary = config.build(rows.shape[1])
        dictionary.prepare(TensorRows(rows), torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(2)
        for parameter in dictionary.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        dictionary.after_step()
        return dictionary

    return make
