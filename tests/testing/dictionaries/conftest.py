"""Kinds of dictionaries that are broken in one way each; they are not registered, so that no other test meets them."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest

from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.topk import TopK
from unweave.testing.dictionaries.subject import Subject

Make = Callable[..., Subject]


class Hasty(Subject):
    """Trains for 15 steps only: enough where nothing has to be found."""

    @cached_property
    def trained(self) -> Dictionary:
        return self.fit(self.planted.rows, steps=15)


@pytest.fixture(scope="session")
def config_of() -> Callable[..., DictionaryConfig]:
    """A small configuration that builds one class with the options of TopK, or with those of the neurons."""

    def make(cls: type[Dictionary], **options: Any) -> DictionaryConfig:
        sizes = {"k": 3} if cls.trained_by_gradient is False else {"d_sae": 32, "k": 3}
        base: type[DictionaryConfig] = TopK if cls.trained_by_gradient else Neurons

        class Broken(base):
            def build(self, d_in: int) -> Dictionary:
                return cls(self, d_in) if cls.trained_by_gradient else cls(self, d_in, 2 * d_in)

        return Broken(**{**sizes, **options})

    return make


@pytest.fixture(scope="session")
def hasty(config_of: Callable[..., DictionaryConfig]) -> Make:
    """A class, or a configuration, as a subject of the checks that is trained for a moment only."""

    def make(what: type[Dictionary] | DictionaryConfig, **options: Any) -> Subject:
        return Hasty(config_of(what, **options) if isinstance(what, type) else what)

    return make
