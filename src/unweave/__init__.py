"""Unweave takes the features of a neural network apart, and says with controls what of it is real."""

from importlib.metadata import version as _version
from typing import Any

from unweave.analyze import Analysis, Atlas, analyze
from unweave.capture import StreamedRows, capture, stream_several
from unweave.compare import Comparing, Comparison, compare, compare_all
from unweave.core.errors import InputError, StoreError
from unweave.core.runtime import Runtime
from unweave.datasets.base import DatasetConfig as _DatasetConfig
from unweave.datasets.rows import RowsConfig as _RowsConfig
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.base import DictionaryConfig as _DictionaryConfig
from unweave.formats import export, load, pull, push
from unweave.models.base import ModelConfig as _ModelConfig
from unweave.recipes.sweep import sweep
from unweave.recipes.sweep_result import Published, Sweep
from unweave.steer import (
    Ablations,
    MovedAnswers,
    Response,
    Splice,
    ablation_effects,
    dose_response,
    moved_answers,
    splice,
    steer,
)
from unweave.store.activations import Activations
from unweave.train import Training, train

__all__ = [
    "Ablations",
    "Activations",
    "Analysis",
    "Atlas",
    "Comparing",
    "Comparison",
    "Dictionary",
    "InputError",
    "MovedAnswers",
    "Published",
    "Response",
    "Runtime",
    "Splice",
    "StoreError",
    "StreamedRows",
    "Sweep",
    "Training",
    "ablation_effects",
    "analyze",
    "capture",
    "compare",
    "compare_all",
    "dose_response",
    "export",
    "load",
    "moved_answers",
    "pull",
    "push",
    "splice",
    "steer",
    "stream_several",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Every registered data set, model and dictionary by its class's name: `unweave.TopK`; and `__version__`."""
    if name == "__version__":
        return _version("unweave")
    for family in (_DictionaryConfig, _ModelConfig, _DatasetConfig, _RowsConfig):
        for member in family.registry.members().values():
            if member.__name__ == name:
                return member
    raise AttributeError(f"module 'unweave' has no attribute {name!r}")


def __dir__() -> list[str]:
    families = (_DictionaryConfig, _ModelConfig, _DatasetConfig, _RowsConfig)
    registered = [member.__name__ for family in families for member in family.registry.members().values()]
    return [*__all__, *registered]
