"""Many dictionaries of the same rows, and what each bought: explained variance against active latents a row."""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from unweave.core.distributed import ranks
from unweave.core.errors import InputError
from unweave.core.progress import progress, silenced
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.recipes.classifier import controls
from unweave.recipes.grid import Variant, variants
from unweave.recipes.sweep_result import DEAD, EXPLAINED, L0, LIVE, WIDTH, Control, Point, Published, Sweep
from unweave.store.rows import RowSource, TensorRows
from unweave.train import Job, Training, train_several
from unweave.train.batches import Streamed
from unweave.train.stage import train_alone

_CHUNK_BYTES = 64 << 20
_ROWS = 32_768
_LIVE_SHARE = 1e-3
_MOST_LEVELS = 16

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Place = Callable[[str], Path | None]


def sweep(
    rows: RowSource | Tensor,
    dictionaries: Sequence[DictionaryConfig],
    training: Training | Sequence[Training] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    test: RowSource | Tensor | None = None,
    published: Sequence[Published] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    runtime: Runtime | None = None,
) -> Sweep:
    """Train many dictionaries of the same rows side by side, and measure each beside its controls.

    Every dictionary comes out with the bits that `train` alone gives it. What sees the rows in the same order (the same
    seed, or any seed of a stream) shares one pass over them, and as many train at a time as there are CPU threads.
    Several processes deal the dictionaries out among them, and the controls; all get the same sweep, and rank 0 writes.

    Args:
        rows: captured `Activations`, a stream (`StreamedRows`), or a tensor [n, d_in].
        dictionaries: what to train, for example `[TopK(d_sae=256, k=k) for k in (4, 8, 16)]`.
        training: how; with several, each dictionary is trained in every one of these ways.
        seeds: each setting is trained once for each.
        test: held-out rows to judge on; by default the training rows, which flatters everything. A stream is gone
            through once, for all dictionaries and controls.
        published: what others report of dictionaries of such rows, for the figure.
        out: a folder for the dictionaries' artifacts (`sae@NAME`), the table and `sweep.json`. With it, a killed sweep
            goes on where it was, and what is finished is not trained again.
        overwrite: replace other artifacts in `out`.
        runtime: device and the like.

    Returns:
        The dictionaries by name ("k=4,seed=0"), their table and their figure.

    Raises:
        InputError: the rows are not [n, d_in], there is nothing to train, or every training failed.
    """
    trainings = [training or Training()] if training is None or isinstance(training, Training) else list(training)
    if not dictionaries or not trainings:
        raise InputError("a sweep needs at least one dictionary and one training")
    source = _rows(rows, "rows")
    judged = source if test is None else _rows(test, "test")
    if judged.d_in != source.d_in:
        raise InputError(f"the rows to judge on have width {judged.d_in}, those to train on {source.d_in}")

    def place(name: str) -> Path | None:
        return None if out is None else Path(out) / f"sae@{name}"

    grid = variants(dictionaries, trainings)
    judged_on = "training rows" if test is None else "held-out rows"
    found = sweep_grid(
        source,
        judged,
        grid,
        seeds,
        place,
        judged_on=judged_on,
        published=published,
        overwrite=overwrite,
        runtime=runtime,
    )
    if out is not None:
        if ranks().first:
            found.save(Path(out))
        ranks().barrier()
    return found


def sweep_grid(
    rows: RowSource,
    judged: RowSource,
    grid: Sequence[Variant],
    seeds: Sequence[int],
    place: Place,
    *,
    judged_on: str,
    seed: int = 0,
    published: Sequence[Published] = (),
    overwrite: bool = False,
    runtime: Runtime | None = None,
) -> Sweep:
    """Train every variant under every seed, and measure all of them and their controls.

    Where the rows to judge on are a stream, the L0s of the controls are those that the dictionaries have on training
    rows in memory, so that one pass over the stream is enough for all.

    Raises:
        InputError: every training failed.
    """
    trained = train_grid(rows, grid, seeds, place, overwrite=overwrite, runtime=runtime)
    kept = {name: one for name, one in trained.items() if isinstance(one, Dictionary)}
    if isinstance(judged, Streamed):
        at_hand = rows.sample() if isinstance(rows, Streamed) else rows
        levels = levels_of(points_of(grid, seeds, trained, measure_all(own(kept), at_hand, runtime)))
        fitted = fit_controls(levels, rows, place, seed=seed, runtime=runtime)
        numbers = measure_all({**own(kept), **fitted}, judged, runtime)
        points = points_of(grid, seeds, trained, numbers)
        beside = _controls_in(numbers)
    else:
        points = points_of(grid, seeds, trained, measure_all(own(kept), judged, runtime))
        beside = measure_controls(points, rows, judged, place, seed=seed, runtime=runtime)
    return Sweep(points, beside, judged_on, kept, published)


def _rows(rows: object, name: str) -> RowSource:
    if isinstance(rows, Tensor):
        return TensorRows(rows, name=name)
    if not isinstance(rows, RowSource):
        raise InputError(
            f"{name} must be Activations, StreamedRows or a tensor [n, d_in], which can be read again; got a "
            f"{type(rows).__name__}"
        )
    return rows


def named(grid: Iterable[Variant], seeds: Sequence[int]) -> dict[str, tuple[Variant, int]]:
    """Every dictionary of a sweep by name.

    Raises:
        InputError: there is no seed, or one is named twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different numbers, at least one; got {list(seeds)}")
    return {",".join(filter(None, (v.name, f"seed={seed}"))): (v, seed) for v in grid for seed in seeds}


def train_grid(
    rows: RowSource,
    grid: Sequence[Variant],
    seeds: Sequence[int],
    place: Place,
    *,
    overwrite: bool = False,
    runtime: Runtime | None = None,
) -> dict[str, Dictionary | InputError]:
    """Every variant under every seed: its dictionary, or why there is none, by name.

    Raises:
        InputError: every training failed.
    """
    jobs = {
        name: Job(dictionary=variant.dictionary, training=variant.training, seed=seed, out=place(name))
        for name, (variant, seed) in named(grid, seeds).items()
    }
    outcomes = train_several(rows, list(jobs.values()), overwrite=overwrite, runtime=runtime)
    trained = dict(zip(jobs, outcomes, strict=True))
    errors = {name: one for name, one in trained.items() if isinstance(one, InputError)}
    if len(errors) == len(trained):
        name, error = next(iter(errors.items()))
        others = f"; so did the other {len(errors) - 1}" if len(errors) > 1 else ""
        raise InputError(f"{name} failed: {error}{others}")
    return trained


def points_of(
    grid: Iterable[Variant],
    seeds: Sequence[int],
    trained: Mapping[str, Dictionary | InputError],
    measured: Mapping[str, Mapping[str, float]],
) -> list[Point]:
    """What was trained and measured, as points."""
    points = []
    for name, (variant, seed) in named(grid, seeds).items():
        error = str(trained[name]) if isinstance(trained[name], InputError) else ""
        options, metrics = dict(variant.options), dict(measured.get(name, {}))
        kind = variant.dictionary.kind
        points.append(Point(name=name, kind=kind, options=options, seed=seed, metrics=metrics, error=error))
    return points


class _Tally:
    """What is counted of one dictionary, block after block of rows."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._rows = max(1, min(8192, _CHUNK_BYTES // (4 * dictionary.d_sae)))
        self._sums = ReconstructionSums(dictionary.d_in)
        self._fired = torch.zeros(dictionary.d_sae, dtype=torch.int64)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Take in a block."""
        for block in rows.split(self._rows):
            own = block.to(self._dictionary.device)
            codes = self._dictionary.encode(own)
            self._sums.add(block, self._dictionary.reconstruct(codes, own))
            self._fired += (codes != 0).sum(0).cpu()

    def metrics(self) -> dict[str, float]:
        """Explained variance, L0, and how many latents live and are dead; defined as in an atlas."""
        n = self._sums.n
        return {
            EXPLAINED: self._sums.explained_variance,
            L0: float(self._fired.sum()) / n,
            LIVE: float((self._fired > _LIVE_SHARE * n).sum()),
            DEAD: float((self._fired == 0).sum()),
            WIDTH: float(self._dictionary.d_sae),
            "dictionary/rows": float(n),
        }


def own(things: Mapping[K, T]) -> dict[K, T]:
    """Those that fall to this process, of things that every rank has; all of them where there is one process."""
    here = ranks()
    return dict(itertools.islice(things.items(), here.rank, None, here.size))


def of_all(found: Mapping[K, T]) -> dict[K, T]:
    """What all ranks found, each of its own."""
    return {name: one for part in ranks().gather(dict(found)) for name, one in part.items()}


def measure_all(
    dictionaries: Mapping[K, Dictionary], rows: RowSource, runtime: Runtime | None = None
) -> dict[K, dict[str, float]]:
    """What dictionaries make of rows, from one pass over them: explained variance, L0, live and dead latents.

    Of several processes each measures its own, and all get what all measured.

    Args:
        dictionaries: by any names; other ones on each rank.
        rows: to judge on.
        runtime: device and the like.
    """
    tallies = {name: _Tally(one) for name, one in dictionaries.items()}
    if tallies or isinstance(rows, Streamed):  # a stream runs on all ranks or none
        with pool_of(runtime) as pool, progress("Measuring", total=None, unit="rows") as bar:
            for block in rows.blocks(max(1, min(_ROWS, _CHUNK_BYTES // (4 * rows.d_in)))):
                list(pool.map(lambda tally, rows=block: tally.add(rows), tallies.values()))
                bar.advance(len(block))
    return of_all({name: tally.metrics() for name, tally in tallies.items()})


def measure_controls(
    points: Sequence[Point],
    rows: RowSource,
    judged: RowSource,
    place: Place = lambda _: None,
    *,
    seed: int = 0,
    runtime: Runtime | None = None,
) -> list[Control]:
    """Neurons, principal components and random directions with as many active latents as the dictionaries had.

    Args:
        points: the dictionaries; controls take the rounded L0s of their settings.
        rows: to fit on.
        judged: to measure on.
        place: folder of a control by its name, "pca,k=4", where it leaves one.
        seed: of the random directions.
        runtime: device and the like.
    """
    fitted = fit_controls(levels_of(points), rows, place, seed=seed, runtime=runtime)
    return _controls_in(measure_all(fitted, judged, runtime))


def _controls_in(numbers: Mapping[Any, dict[str, float]]) -> list[Control]:
    """Controls among what was measured: their names are pairs of condition and k."""
    pairs = sorted(name for name in numbers if isinstance(name, tuple))
    return [Control(condition=name, k=k, metrics=numbers[name, k]) for name, k in pairs]


def levels_of(points: Sequence[Point]) -> dict[int, int]:
    """The rounded L0s of settings, at most 16 of them, and the widest dictionary at each."""
    widths: dict[int, int] = {}
    for setting in Sweep(list(points), [], "").settings:
        if setting.points:
            level = max(1, round(setting.mean(L0)))
            widths[level] = max(widths.get(level, 0), round(setting.mean(WIDTH)))
    return {level: widths[level] for level in _spread(sorted(widths))}


def fit_controls(
    levels: Mapping[int, int],
    rows: RowSource,
    place: Place = lambda _: None,
    *,
    seed: int = 0,
    runtime: Runtime | None = None,
) -> dict[tuple[str, int], Dictionary]:
    """Every control at every level, by condition and k; of a stream they are fitted to its sample.

    Of several processes each fits some, and has those.
    """
    every = {(name, k): one for k, width in levels.items() for name, one in controls(width, k).items()}
    wanted = [(name, k, one) for (name, k), one in own(every).items()]

    def fit(condition: str, k: int, config: DictionaryConfig) -> Dictionary:
        job = Job(dictionary=config, training=Training(), seed=seed, out=place(f"{condition},k={k}"))
        return train_alone(rows, job, runtime=runtime)

    made = side_by_side("Fitting controls", "controls", fit, wanted, runtime)
    return {(name, k): one for (name, k, _), one in zip(wanted, made, strict=True)}


def side_by_side(
    label: str, unit: str, work: Callable[..., T], calls: Sequence[tuple[Any, ...]], runtime: Runtime | None = None
) -> list[T]:
    """Results of independent calls, in their order: one for each CPU thread at a time, under one progress bar."""
    with pool_of(runtime) as pool, progress(label, total=len(calls), unit=unit) as bar, silenced():
        futures = [pool.submit(work, *call) for call in calls]
        for _ in as_completed(futures):
            bar.advance()
        return [future.result() for future in futures]


@contextmanager
def pool_of(runtime: Runtime | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that hold torch to one CPU thread each, as many as there are of those."""
    runtime, before = runtime or Runtime(), torch.get_num_threads()
    threads = (runtime.threads or before) if runtime.torch_device().type == "cpu" else 1
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # for threads that will start later: those of the pool have left a one there


def _spread(levels: Sequence[int]) -> list[int]:
    """At most 16 of the levels, the first and the last among them, evenly over orders of magnitude."""
    if len(levels) <= _MOST_LEVELS:
        return list(levels)
    logs = [math.log(level) for level in levels]
    even = np.linspace(logs[0], logs[-1], _MOST_LEVELS)
    return sorted({min(levels, key=lambda level: abs(math.log(level) - at)) for at in even})
