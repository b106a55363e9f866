"""What a sweep found: every dictionary as a point, the controls beside them, a table and a figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from matplotlib.figure import Figure

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import Dictionary
from unweave.figures.pareto import Curve, pareto
from unweave.recipes.grid import KIND
from unweave.store.artifact import read_json, write_json
from unweave.store.drafts import disk_errors, replacing
from unweave.store.files import save_table

SWEEP = "sweep.json"
CSV = "sweep.csv"
PARQUET = "sweep.parquet"
L0 = "dictionary/l0"
EXPLAINED = "dictionary/explained_variance"
LIVE = "dictionary/live"
DEAD = "dictionary/dead"
WIDTH = "dictionary/d_sae"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One dictionary of a sweep.

    Attributes:
        name: options and seed: "k=4,seed=0".
        kind: of the dictionary.
        options: what sets its setting apart from the others: value by option, the kind among them where kinds differ.
        seed: of its training.
        metrics: what was measured; nothing where its training failed.
        error: why it failed.
    """

    name: str
    kind: str
    options: dict[str, Any]
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control with at most `k` active latents a row: "pca", "neurons" or "random"."""

    condition: str
    k: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others report of a dictionary of such rows."""

    name: str
    l0: float
    explained_variance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What a sweep says of one setting.

    Attributes:
        label: its options in words.
        series: the line of the figure that it lies on, in words.
        points: its dictionaries, those that failed left out.
        failed: how many did.
        beside: explained variance of each control at the nearest L0 that was measured.
    """

    label: str
    series: str
    points: list[Point]
    failed: int
    beside: dict[str, float]

    def values(self, metric: str) -> list[float]:
        """A metric, seed by seed."""
        return [point.metrics[metric] for point in self.points if metric in point.metrics]

    def mean(self, metric: str) -> float:
        """Over seeds; NaN where nothing was measured."""
        values = self.values(metric)
        return float(np.mean(values)) if values else math.nan

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over seeds (of the sample: n − 1); None from one seed."""
        values = self.values(metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Dictionaries of the same rows, and the controls at their L0s.

    Attributes:
        points: one for each dictionary: settings in the order of the grid, seeds within them.
        controls: by condition and rising k.
        judged_on: which rows the numbers are of: "held-out rows" or "training rows".
        dictionaries: by name; a sweep that was read back holds none.
        published: what others report, for comparison.
    """

    points: list[Point]
    controls: list[Control]
    judged_on: str
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)
    published: Sequence[Published] = ()

    @property
    def failed(self) -> dict[str, str]:
        """Trainings that failed: why, by name."""
        return {point.name: point.error for point in self.points if point.error}

    @property
    def table(self) -> pa.Table:
        """One row for each dictionary: its name, kind, options, seed and metrics; `error` where it failed."""
        options = dict.fromkeys(option for point in self.points for option in point.options if option != KIND)
        metrics = dict.fromkeys(metric for point in self.points for metric in point.metrics)
        columns: dict[str, Any] = {"name": [p.name for p in self.points], "kind": [p.kind for p in self.points]}
        columns |= {option: _of_one_type([p.options.get(option) for p in self.points]) for option in options}
        columns["seed"] = [p.seed for p in self.points]
        columns |= {m.removeprefix("dictionary/"): [p.metrics.get(m) for p in self.points] for m in metrics}
        columns["error"] = [p.error for p in self.points]
        return pa.table(columns)

    @property
    def settings(self) -> list[Setting]:
        """Dictionaries that differ in their seed alone, together."""
        groups: dict[tuple[Any, ...], list[Point]] = {}
        for point in self.points:
            groups.setdefault((point.kind, *point.options.items()), []).append(point)
        along = {kind: _along([p for p in self.points if p.kind == kind]) for kind in {p.kind for p in self.points}}
        return [self._setting(points, along[points[0].kind]) for points in groups.values()]

    def _setting(self, points: list[Point], along: str | None) -> Setting:
        first, measured = points[0], [point for point in points if not point.error]
        others = {name: value for name, value in first.options.items() if name not in (KIND, along)}
        beside: dict[str, float] = {}
        if measured and self.controls:
            level = float(np.mean([point.metrics[L0] for point in measured]))
            nearest = min((control.k for control in self.controls), key=lambda k: abs(k - level))
            beside = {c.condition: c.metrics[EXPLAINED] for c in self.controls if c.k == nearest}
        return Setting(
            label=_words(first.options) or first.kind,
            series=_words({KIND: first.kind, **others}),
            points=measured,
            failed=len(points) - len(measured),
            beside=beside,
        )

    def figure(self) -> Figure:
        """Explained variance and dead latents against L0: a line for each kind, the controls beside them."""
        lines: dict[str, list[Setting]] = {}
        for setting in self.settings:
            if setting.points:
                lines.setdefault(setting.series, []).append(setting)
        beside: dict[str, list[list[tuple[float, float, float]]]] = {}
        for control in self.controls:
            beside.setdefault(control.condition, []).append([(control.k, control.metrics[EXPLAINED], math.nan)])
        return pareto(
            {name: _curve(settings) for name, settings in lines.items()},
            {name: Curve.of(points) for name, points in beside.items()},
            {one.name: (one.l0, one.explained_variance) for one in self.published},
            rows=self.judged_on,
        )

    def save(self, folder: Path) -> None:
        """Write `sweep.json`, and the table as `sweep.csv` and `sweep.parquet`."""
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        table = self.table
        with replacing(folder / PARQUET) as draft:
            save_table(draft, {name: table[name] for name in table.column_names})
        with replacing(folder / CSV) as draft:
            pyarrow.csv.write_csv(table, draft)
        found = {"points": self.points, "controls": self.controls, "published": self.published}
        write_json(folder / SWEEP, {"judged_on": self.judged_on, **to_json(found)}, sealed=True)

    @staticmethod
    def read(folder: Path) -> "Sweep":
        """What `save` wrote, without the dictionaries.

        Raises:
            StoreError: it is not there, or is not what `save` writes.
        """
        content = read_json(folder / SWEEP)
        try:
            points = [from_json(Point, _with_nan(point), where="points") for point in content["points"]]
            found = [from_json(Control, _with_nan(control), where="controls") for control in content["controls"]]
            published = [from_json(Published, one, where="published") for one in content["published"]]
            return Sweep(points, found, str(content["judged_on"]), published=published)
        except (KeyError, TypeError, InputError) as error:
            raise StoreError(f"{folder / SWEEP} is not what a sweep writes ({error}); sweep again") from None


def _words(options: Mapping[str, Any]) -> str:
    return " ".join(str(value) if name == KIND else f"{name}={value}" for name, value in options.items())


def _with_nan(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: where a number could not be had there is null."""
    return {**data, "metrics": {name: math.nan if v is None else v for name, v in data["metrics"].items()}}


def _of_one_type(values: list[Any]) -> list[Any]:
    """A column as it is, or in words where it mixes types that a table cannot."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return [float(v) if kinds == {int, float} and v is not None else v for v in values]
    return [None if value is None else str(value) for value in values]


def _along(points: Sequence[Point]) -> str | None:
    """The option that moves L0 most while the others stay: lines of the figure run along it."""
    names = dict.fromkeys(name for point in points for name in point.options if name != KIND)
    reach = {}
    for name in names:
        groups: dict[tuple[Any, ...], list[float]] = {}
        for point in points:
            if not point.error and name in point.options:
                rest = tuple(item for item in point.options.items() if item[0] != name)
                groups.setdefault(rest, []).append(math.log(max(point.metrics[L0], 1e-9)))
        reach[name] = sum(max(logs) - min(logs) for logs in groups.values()) / max(1, len(groups))
    return max(reach, key=lambda name: reach[name], default=None)


def _curve(settings: Sequence[Setting]) -> Curve:
    """One line's settings; labelled by what changes along it."""
    points = [
        list(zip(s.values(L0), s.values(EXPLAINED), (d / s.mean(WIDTH) for d in s.values(DEAD)), strict=True))
        for s in settings
    ]
    options = [setting.points[0].options for setting in settings]
    changing = [name for name in options[0] if len({str(one.get(name)) for one in options}) > 1]
    return Curve.of(points, [_words({name: one[name] for name in changing if name in one}) for one in options])
