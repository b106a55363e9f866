"""The benchmark of planted dictionaries: which kind finds the directions that rows are known to be made of?"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.core.seeds import derive_seed
from unweave.datasets.planted import Planted
from unweave.datasets.rows import KnownRows, RowsConfig
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.recipes.base import Run, recipe
from unweave.recipes.recovery.page import findings, write_page
from unweave.recipes.recovery.scores import (
    Score,
    load_scores,
    measure,
    save_scores,
    summaries,
    write_table,
)
from unweave.recipes.recovery.setup import (
    ANY,
    NON_NEGATIVE,
    Entry,
    Sizes,
    Tried,
    by_gradient,
    entry,
    needs_non_negative,
    settle,
    tune,
)
from unweave.recipes.sweep import side_by_side
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.train import Job, Training, train, train_several

_PLANTED = Planted(n=10_000, d_in=48, n_features=96, exponent=0.7, noise=0.1, correlation=0.4)
_TRAINING = Training(steps=1000, batch_size=512, learning_rate=4e-3)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Planted rows, and every kind of dictionary."""

    data: RowsConfig = field(default_factory=lambda: _PLANTED)
    "rows that are sums of known directions; n of them to train on"
    test_rows: int = 5000
    "held-out rows to judge on"
    kinds: tuple[str, ...] = ()
    "kinds of dictionaries; by default all that are registered"
    width: float = 1.0
    "latents, in multiples of the true directions, for kinds that have a choice"
    l0: float | None = None
    "active latents a row that all are brought to; by default as many as there are planted"
    training: Training = field(default_factory=lambda: _TRAINING)
    "how kinds are trained that are trained by gradient"
    fit_rows: int = 4096
    "rows that a fit in closed form sees at most, where the kind lets choose"
    tuning: int = 2
    "values of a penalty that are tried beyond those that a kind declares, to bring it to that L0"
    seeds: int = 3
    "repetitions, each with other data and other dictionaries"

    def __post_init__(self) -> None:
        for name, least in (("test_rows", 1), ("fit_rows", 1), ("tuning", 0), ("seeds", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        if not 0 < self.width < float("inf"):
            raise InputError(f"width must be above 0, got {self.width}")
        if self.l0 is not None and not 0 < self.l0 < float("inf"):
            raise InputError(f"l0 must be above 0, got {self.l0}")


QUICK = Recovery(
    data=Planted(n=2000, d_in=16, n_features=24, l0=3.0, exponent=0.3, noise=0.05),
    test_rows=1000,
    training=Training(steps=300, batch_size=128, learning_rate=1e-2),
    fit_rows=1000,
    tuning=1,
    seeds=2,
)


@recipe("recovery", default=Recovery(), quick=QUICK)
def recovery(config: Recovery, run: Run) -> None:
    """Which dictionaries find the directions that rows are known to be made of?"""
    first, judged = _make(config.data, config, run.seed, 0)
    l0 = config.l0 or float((first.sources != 0).sum()) / len(first.sources)
    width = max(1, round(config.width * first.sources.shape[1]))
    sizes = Sizes(d_in=first.rows.shape[1], d_sae=width, l0=l0, fit_rows=config.fit_rows)
    entries, data = _entries(config, sizes, first)
    tried = _tuned(config, [one for one in entries if one.rows == ANY], (first, judged), l0, run)
    entries = settle(entries, tried, l0)
    scores = [score for number in range(config.seeds) for score in _scores(config, entries, data, number, run)]
    write_table(run.folder, scores)
    found = summaries(scores)
    for one in found:
        condition = one.kind if one.rows == ANY else f"{one.kind},{one.rows}"
        run.record({name: spread.mean for name, spread in one.spreads.items()}, condition=condition)
        ends = {f"{name}_{end}": getattr(s, end) for name, s in one.spreads.items() for end in ("low", "high")}
        run.record(ends if config.seeds > 1 else {}, condition=condition)
    run.record({"data/l0": l0, "data/features": float(first.sources.shape[1])})
    run.findings += findings(found, tried, l0)
    write_page(run, found, tried, l0=l0, seeds=config.seeds)


def _make(data: RowsConfig, config: Recovery, seed: int, number: int) -> tuple[KnownRows, KnownRows]:
    """Rows to train on and to judge on, of one repetition.

    Raises:
        InputError: they are not sums of known directions.
    """
    derived = derive_seed(seed, "recovery", number)
    train_rows = data.make(seed=derived)
    if train_rows.directions is None:
        raise InputError(f"the rows {data.kind!r} have no known directions that a dictionary could find")
    return train_rows, data.make(config.test_rows, seed=derived, split="test")


def _entries(config: Recovery, sizes: Sizes, rows: KnownRows) -> tuple[list[Entry], dict[str, RowsConfig]]:
    """All kinds, and the data that they are tried on.

    Where rows have negative entries, the kinds that take none are tried on non-negative rows of the same settings, and
    so are all others that are fitted in closed form, to stand beside them.
    """
    known = DictionaryConfig.registry.members()
    entries = [entry(kind, sizes) for kind in dict.fromkeys(config.kinds or known)]
    data = {ANY: config.data}
    refused = {one.kind for one in entries if one.config and needs_non_negative(one.config, sizes.d_in)}
    if not refused or bool((rows.rows >= 0).all()):
        return entries, data
    reason = "takes only rows without negative entries"
    usual = [replace(one, config=None, reason=reason) if one.kind in refused else one for one in entries]
    if "non_negative" not in {item.name for item in dataclasses.fields(config.data)}:
        return usual, data
    changes = {"non_negative": True}
    data[NON_NEGATIVE] = replace(config.data, **changes)
    fitted = [one for one in entries if one.config and not by_gradient(one.config, sizes.d_in)]
    kept = [one for one in usual if one.kind not in refused]
    return [*kept, *(replace(one, rows=NON_NEGATIVE) for one in fitted)], data


def _tuned(
    config: Recovery, entries: Sequence[Entry], made: tuple[KnownRows, KnownRows], l0: float, run: Run
) -> list[Tried]:
    """Values of penalties that were tried on the first repetition's training rows, from the artifact if it is there."""
    about = {"data": config.data, "training": config.training, "rounds": config.tuning, "l0": l0, "of": entries}
    identity = Identity(kind="recovery tuning", config=about, seed=run.seed)
    out = run.place("tuning")
    if existing(out, identity):
        return [from_json(Tried, one, where=str(out)) for one in read_manifest(out).details["tried"]]
    with writing(out, identity) as draft:
        train_rows, judged = made
        tried = tune(
            entries,
            train_rows.rows,
            l0,
            config.training,
            rounds=config.tuning,
            seed=derive_seed(run.seed, "recovery dictionary", 0),
            runtime=run.runtime,
            also=lambda dictionary: measure(dictionary, judged),
        )
        draft.details["tried"] = to_json(tried)
    return tried


def _scores(
    config: Recovery, entries: Sequence[Entry], data: dict[str, RowsConfig], number: int, run: Run
) -> list[Score]:
    """Scores of one repetition, from the artifact if it is there."""
    about = {"data": config.data, "test_rows": config.test_rows, "training": config.training, "of": entries}
    identity = Identity(kind="recovery scores", config={**about, "number": number}, seed=run.seed)
    out = run.place(f"scores@seed={number}")
    if existing(out, identity):
        return load_scores(out)
    with writing(out, identity) as draft:
        scores = []
        for rows, of_rows in data.items():
            made = _make(of_rows, config, run.seed, number)
            scores += _of_rows(config, [one for one in entries if one.rows == rows], made, number, run)
        save_scores(draft.folder, scores)
    return scores


def _of_rows(
    config: Recovery, entries: Sequence[Entry], made: tuple[KnownRows, KnownRows], number: int, run: Run
) -> list[Score]:
    """Train or fit every kind on the same rows, and measure it."""
    train_rows, judged = made
    seed = derive_seed(run.seed, "recovery dictionary", number)
    d_in = train_rows.rows.shape[1]
    ready = {one.kind: one.config for one in entries if one.config is not None}
    trained = {kind: config_ for kind, config_ in ready.items() if by_gradient(config_, d_in)}
    jobs = [Job(dictionary=one, training=config.training, seed=seed) for one in trained.values()]
    outcomes = dict(zip(trained, train_several(train_rows.rows, jobs, runtime=run.runtime), strict=True))

    def fit(one: DictionaryConfig) -> Dictionary | InputError:
        try:
            return train(train_rows.rows, one, seed=seed, runtime=run.runtime)
        except InputError as error:
            return error

    fitted = {kind: one for kind, one in ready.items() if kind not in trained}
    if fitted:
        done = side_by_side("Fitting", "dictionaries", fit, [(one,) for one in fitted.values()], run.runtime)
        outcomes.update(zip(fitted, done, strict=True))
    scores = []
    for one in entries:
        outcome = outcomes.get(one.kind, InputError(one.reason))
        ok = isinstance(outcome, Dictionary)
        scores.append(
            Score(
                kind=one.kind,
                rows=one.rows,
                seed=number,
                metrics=measure(outcome, judged) if isinstance(outcome, Dictionary) else {},
                error="" if ok else str(outcome),
                trained=one.kind in trained,
                tuned=one.tuned,
            )
        )
    return scores
