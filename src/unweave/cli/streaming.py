"""`--stream`: a model and a data set where a command would take a store of activations."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from unweave.capture import Capture, StreamedRows, stream_several
from unweave.cli.network import NetworkArguments, refuse_empty
from unweave.cli.parsing import parse, unfilled
from unweave.cli.places import Grid
from unweave.core.config import to_json
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.datasets.base import Split
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.topk import TopK
from unweave.recipes.sources import Source
from unweave.store.layout import Layout
from unweave.train import Job, Training, train, train_several

Flat = tyro.conf.arg(name="")
FLAG = "--stream"
STREAM_HELP = f"\n\n{FLAG} in the place of the store trains while a model runs, and stores nothing ({FLAG} --help)."
console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class Streaming(NetworkArguments):
    """Where streamed rows come from."""

    capture: Annotated[Capture, Flat]
    limit: int | None = None
    "use the first so many examples of a pass; a data set that does not know its length is then not counted first"
    buffer_mib: int = 1024
    "memory for rows, which are mixed in it (MiB)"
    sample_rows: int = 65_536
    "rows kept in memory, from which mean, variance, starts and controls are taken"
    grid: Annotated[Layout | None, Grid] = None
    "places of the module's grid, and tokens before them, where shapes leave it open: 7x7, 7x7+1, or 7x7:last"

    def as_json(self) -> dict[str, Any]:
        """What a run's `run.json` says of it; earlier versions knew no grid, and their runs go on."""
        said: dict[str, Any] = to_json(self)
        return {name: value for name, value in said.items() if name != "grid" or value is not None}

    def open(self, seed: int, runtime: Runtime) -> "Opened":
        """The data set and the model, on its device."""
        source = self.source(seed)
        examples = source.dataset()
        return Opened(self, source, examples, source.build(examples).to(runtime.torch_device()), seed)


@dataclass(frozen=True, eq=False)
class Opened:
    """A model and examples, ready to be streamed."""

    asked: Streaming
    source: Source
    examples: Any
    model: Any
    seed: int

    def rows(self) -> dict[str, StreamedRows]:
        """Streams of the hook points."""
        return self._rows(self.examples, self.asked.sample_rows, self.source)

    def rows_of(self, split: Split) -> dict[str, StreamedRows]:
        """Streams of another part of the data, to judge on; they need no sample but its first batch."""
        source = Source(**{**vars(self.source), "split": split})
        return self._rows(source.dataset(), 1, source)

    def _rows(self, examples: Any, sample_rows: int, source: Source) -> dict[str, StreamedRows]:
        asked = self.asked
        what = {name: getattr(asked.capture, name) for name in ("rows", "side", "dtype", "mean", "std", "prefix")}
        return stream_several(
            self.model,
            examples,
            at=asked.capture.at,
            layout=asked.grid,
            batch_size=asked.batch_size,
            limit=asked.limit,
            buffer_bytes=asked.buffer_mib << 20,
            sample_rows=sample_rows,
            seed=self.seed,
            source=source.as_json(),
            **what,
        )


def asked_to_stream(given: list[str]) -> bool:
    """Take `--stream` out of the arguments, if it is there."""
    there = FLAG in given
    given[:] = [argument for argument in given if argument != FLAG]
    return there


def refuse_store(given: list[str], program: str) -> None:
    """Say that there is a store's folder beside `--stream`.

    Raises:
        InputError: so it is.
    """
    if given and not given[0].startswith("-"):
        raise InputError(
            f"{given[0]} and {FLAG}: rows come from a store or from a stream, not both; leave out one of them "
            f"(see {program} {FLAG} --help)"
        )


def refuse_neither(given: list[str], program: str) -> None:
    """Say that there is neither a store's folder nor `--stream`.

    Raises:
        InputError: so it is.
    """
    if given and given[0].startswith("--") and not {"--help", "-h"} & set(given):
        raise InputError(
            f"which rows? Give a store's folder first ({program} STORE --out ...), or {FLAG} to train while a model "
            f"runs ({program} {FLAG} --model ... --data ... --at ... --out ...)"
        )


@dataclass(frozen=True, kw_only=True)
class StreamTrainArguments:
    """Flags of `unweave train --stream`."""

    stream: Annotated[Streaming, Flat]
    out: Path
    "folder of the dictionary; several hook points get a subfolder each"
    sae: DictionaryConfig = field(default_factory=TopK)
    "the dictionary"
    training: Training = field(default_factory=Training)
    seed: int = 0
    "every random choice comes from it"
    overwrite: bool = False
    "replace another artifact in --out"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def stream_train_command(given: list[str], program: str) -> None:
    """Train a dictionary while the model runs: nothing is stored; a killed training goes on where it was."""
    refuse_store(given, program)
    default = unfilled(StreamTrainArguments, stream=unfilled(Streaming, capture=unfilled(Capture)))
    read = parse(
        StreamTrainArguments,
        default,
        given,
        program=f"{program} {FLAG}",
        description=stream_train_command.__doc__ or "",
    )
    refuse_empty(read.stream.capture.at, f"{program} {FLAG}")
    read.runtime.apply()
    rows = read.stream.open(read.seed, read.runtime).rows()
    options: dict[str, Any] = {"overwrite": read.overwrite, "runtime": read.runtime}
    if len(rows) == 1:
        (one,) = rows.values()
        made = train(one, read.sae, read.training, seed=read.seed, out=read.out, **options)
        console.print(f"{made}: {read.out}")
        return
    jobs = {
        name: [Job(dictionary=read.sae, training=read.training, seed=read.seed, out=read.out / name)] for name in rows
    }
    for name, (outcome,) in train_several(rows, jobs, **options).items():
        if not isinstance(outcome, Dictionary):
            raise InputError(f"{name}: {outcome}")
        console.print(f"{outcome}: {read.out / name}")
