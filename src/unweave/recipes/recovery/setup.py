"""What the recipe `recovery` compares: every kind of dictionary, brought to the same number of active latents a row."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.progress import silenced
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.train import Job, Training, train_several

_BEYOND = 3.0  # how far the next value of a penalty lies outside of those that were tried
_SMALLEST_L0 = 1e-3
_COLLAPSED = 8.0
_SAME = 0.01  # of log values: closer ones are not worth a training

ANY = "any sign"
NON_NEGATIVE = "non-negative"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A kind of dictionary in the comparison.

    Attributes:
        kind: its name in the registry.
        rows: which rows it is tried on: of any sign, or non-negative ones.
        config: how it is configured; None where it could not be.
        reason: why it could not be.
        tuned: the option that L0 was tuned with, and its value, in words; nothing where none was.
    """

    kind: str
    rows: str
    config: DictionaryConfig | None = None
    reason: str = ""
    tuned: str = ""

    @property
    def name(self) -> str:
        """The kind, and the rows where they are not the usual ones."""
        return self.kind if self.rows == ANY else f"{self.kind},{self.rows}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What every kind is given that has an option for it.

    Attributes:
        d_in: width of the rows.
        d_sae: number of latents.
        l0: active latents a row.
        fit_rows: rows that a fit in closed form sees at most.
    """

    d_in: int
    d_sae: int
    l0: float
    fit_rows: int

    def options(self) -> dict[str, float]:
        """By the names that options have in every kind: `k` and `target` both say how many latents are active."""
        k = max(1, min(round(self.l0), self.d_sae))
        return {"d_sae": self.d_sae, "k": k, "target": self.l0, "fit_rows": self.fit_rows}


def entry(kind: str, sizes: Sizes, rows: str = ANY) -> Entry:
    """A kind with the options it has of those that all are given; or why it cannot have them."""
    member = DictionaryConfig.registry[kind]
    fields = [field for field in dataclasses.fields(member) if field.init]  # type: ignore[arg-type]
    given = {field.name: sizes.options()[field.name] for field in fields if field.name in sizes.options()}
    open_ = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING and f.name not in given]
    if open_:
        return Entry(kind=kind, rows=rows, reason=f"{', '.join(open_)} has no default")
    try:
        config = member(**given)
        assert isinstance(config, DictionaryConfig)
        config.build(sizes.d_in)
    except InputError as error:
        return Entry(kind=kind, rows=rows, reason=str(error))
    return Entry(kind=kind, rows=rows, config=config)


def needs_non_negative(config: DictionaryConfig, d_in: int) -> bool:
    """Whether a kind takes only rows without negative entries."""
    return bool(getattr(type(config.build(d_in)), "non_negative_rows", False))


def by_gradient(config: DictionaryConfig, d_in: int) -> bool:
    """Whether a kind is trained, or fitted in closed form."""
    return config.build(d_in).trained_by_gradient


def penalty(config: DictionaryConfig) -> tuple[str, tuple[float, ...]] | None:
    """The option that a kind's L0 has to be tuned with, and values of it; None where another option states L0."""
    name, values = getattr(config, "sparsity", ("k", ()))
    return None if name in ("k", "target") else (name, tuple(map(float, values)))


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A value of a kind's penalty.

    Attributes:
        kind: the kind.
        option: the penalty's name.
        value: what was tried.
        l0: active latents a row that it gave on training rows, by which values are chosen.
        metrics: what else it gave, on held-out rows: to be shown, not to choose by.
    """

    kind: str
    option: str
    value: float
    l0: float
    metrics: dict[str, float] = field(default_factory=dict)


def tune(
    entries: Sequence[Entry],
    rows: Float[Tensor, "n d_in"],
    l0: float,
    training: Training,
    *,
    rounds: int,
    seed: int,
    runtime: Runtime,
    also: Callable[[Dictionary], dict[str, float]] = lambda _: {},
) -> list[Tried]:
    """Bring kinds whose L0 follows a penalty to the L0 that is wanted, by what they do on training rows alone.

    First come the values that the kind itself declares in `sparsity`. Then each round adds one, where the line through
    log L0 against log value between the two nearest meets the L0 that is wanted, or three times beyond the last. A kind
    is left alone once that is a value that was tried.

    Args:
        entries: the kinds; others than these are not looked at.
        rows: to train and to count on.
        l0: what is wanted.
        training: how.
        rounds: values to add for each kind.
        seed: of the trainings.
        runtime: device and the like.
        also: what else to measure of each dictionary; nothing is chosen by it.
    """
    found: dict[str, list[Tried]] = {}
    wanted = {one.kind: list(declared[1]) for one in entries if one.config and (declared := penalty(one.config))}
    configs = {one.kind: one.config for one in entries if one.config is not None}
    for _ in range(1 + rounds):
        asked = [(kind, value) for kind, values in wanted.items() for value in values]
        jobs = [
            Job(dictionary=with_penalty(configs[kind], value), training=training, seed=seed) for kind, value in asked
        ]
        outcomes = train_several(rows, jobs, runtime=runtime)
        for (kind, value), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Dictionary):
                one = Tried(
                    kind=kind,
                    option=_penalty_of(configs[kind]),
                    value=value,
                    l0=mean_l0(outcome, rows),
                    metrics=also(outcome),
                )
                found.setdefault(kind, []).append(one)
        proposed = {kind: next_value([(one.value, one.l0) for one in tried], l0) for kind, tried in found.items()}
        wanted = {
            kind: [value]
            for kind, value in proposed.items()
            if all(abs(math.log(value / one.value)) > _SAME for one in found[kind])
        }
    return [one for tried in found.values() for one in tried]


def _penalty_of(config: DictionaryConfig) -> str:
    declared = penalty(config)
    assert declared is not None
    return declared[0]


def with_penalty(config: DictionaryConfig, value: float) -> DictionaryConfig:
    """A kind with another value of its penalty."""
    changes: Mapping[str, float] = {_penalty_of(config): value}
    return dataclasses.replace(config, **changes)


def next_value(tried: Sequence[tuple[float, float]], l0: float) -> float:
    """The value to try next, from pairs of value and L0."""
    least = l0 / _COLLAPSED  # where a dictionary has all but gone out, how far says nothing of the line
    points = sorted((math.log(max(got, least)), math.log(value)) for value, got in tried)
    logs, values = np.array(points).T
    goal = math.log(l0)
    if logs[0] <= goal <= logs[-1]:
        return float(np.exp(np.interp(goal, logs, values)))
    edge, inner = (0, 1) if goal < logs[0] else (-1, -2)
    direction = 1.0 if len(values) < 2 or values[edge] > values[inner] else -1.0
    return float(np.exp(values[edge] + direction * math.log(_BEYOND)))


def chosen(tried: Sequence[Tried], kind: str, l0: float) -> Tried | None:
    """The value whose L0 is nearest, as a ratio; None where every training failed."""
    of_kind = [one for one in tried if one.kind == kind]
    return min(of_kind, key=lambda one: abs(math.log(max(one.l0, _SMALLEST_L0) / l0)), default=None)


def settle(entries: Sequence[Entry], tried: Sequence[Tried], l0: float) -> list[Entry]:
    """Entries with the values that tuning chose."""
    settled = []
    for one in entries:
        if one.config is None or penalty(one.config) is None:
            settled.append(one)
            continue
        best = chosen(tried, one.kind, l0)
        if best is None:
            settled.append(dataclasses.replace(one, config=None, reason="every training failed while it was tuned"))
        else:
            config = with_penalty(one.config, best.value)
            settled.append(dataclasses.replace(one, config=config, tuned=f"{best.option}={best.value:.3g}"))
    return settled


@torch.no_grad()
def mean_l0(dictionary: Dictionary, rows: Float[Tensor, "n d_in"]) -> float:
    """Active latents a row."""
    with silenced():
        codes = [dictionary.encode(block.to(dictionary.device)) for block in rows.split(4096)]
    return sum(float((block != 0).sum()) for block in codes) / len(rows)
