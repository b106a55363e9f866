"""How trainings went, or go: their curves, from artifacts and from the checkpoints of those under way."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unweave.app.shelf import Contents
from unweave.core.errors import StoreError
from unweave.dictionaries.base import HISTORY
from unweave.dictionaries.base import KIND as DICTIONARY
from unweave.models.classifier import KIND as MODEL
from unweave.models.classifier import load_curves
from unweave.store.files import load_table
from unweave.store.verify import CHECKPOINT
from unweave.train.checkpoint import read_history

_MOST_POINTS = 400


@dataclass(frozen=True)
class Course:
    """The curves of one training.

    Attributes:
        title: what was trained.
        columns: as its history has them.
    """

    title: str
    columns: Mapping[str, list[float]]

    @property
    def x_name(self) -> str:
        """What the curves lie over."""
        return "step" if "step" in self.columns else "epoch"

    @property
    def x(self) -> list[float]:
        """Where they were noted."""
        return self.columns[self.x_name]

    def panels(self) -> Iterator[tuple[str, dict[str, list[float]], bool]]:
        """Title and lines of each chart, and whether its axis is logarithmic."""
        rest = {name: values for name, values in self.columns.items() if name not in ("step", "epoch", "learning_rate")}
        groups: dict[str, list[str]] = {
            "Loss": [name for name in ("loss", "train_loss", "test_loss") if name in rest],
            "Explained variance": ["explained_variance"],
            "L0": ["l0"],
            "Dead latents": ["dead"],
            "Accuracy": ["test_accuracy"],
        }
        for title, names in groups.items():
            lines = {name.replace("_", " "): rest[name] for name in names if name in rest}
            if lines:
                yield title, lines, title == "Loss" and all(v > 0 for v in _finite(lines))


def _finite(lines: Mapping[str, list[float]]) -> list[float]:
    return [value for values in lines.values() for value in values if value is not None and math.isfinite(value)]


def courses(contents: Contents, folder: Path, *, live: bool = False) -> list[Course]:
    """Trainings of a run: those that ended, or those under way."""
    return list(_live(folder) if live else _ended(contents))


def _ended(contents: Contents) -> Iterator[Course]:
    for role in contents.roles(DICTIONARY):
        path = contents.folders[role] / HISTORY
        if path.is_file():
            columns = load_table(path).to_pydict()
            if len(columns.get("step", [])) > 1:
                yield Course(f"{role}: dictionary", _thinned(columns))
    for role in contents.roles(MODEL):
        try:
            yield Course(f"{role}: model", _thinned(load_curves(contents.folders[role])))
        except StoreError:  # a model of another make has no curves of this kind
            continue


def _live(folder: Path) -> Iterator[Course]:
    for path in sorted(folder.rglob(f".*{CHECKPOINT}")):
        history = read_history(path)
        if len(history.get("step", [])) > 1:
            yield Course(f"{path.name.removeprefix('.').removesuffix(CHECKPOINT)}: dictionary", _thinned(history))


def _thinned(columns: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """At most some hundred points, the last one among them."""
    n = max((len(values) for values in columns.values()), default=0)
    step = max(1, n // _MOST_POINTS)
    return {name: list(values[(n - 1) % step :: step]) for name, values in columns.items()}
