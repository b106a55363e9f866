"""The commands: each reads its flags, calls a stage or a recipe, and says where the result is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from rich.console import Console

from unweave.analyze import Analysis, analyze
from unweave.capture import Capture, capture
from unweave.cli.bench import bench_command
from unweave.cli.compare import compare_command
from unweave.cli.exchange import export_command, import_command, pull_command, push_command
from unweave.cli.map import map_command
from unweave.cli.network import NetworkArguments, refuse_empty
from unweave.cli.parsing import component, parse, taken, unfilled
from unweave.cli.places import Grid
from unweave.cli.query import query_command
from unweave.cli.run import recipes_command, run_command
from unweave.cli.serve import serve_command
from unweave.cli.steer import steer_command
from unweave.cli.streaming import STREAM_HELP, asked_to_stream, refuse_neither, stream_train_command
from unweave.cli.study import study_command
from unweave.cli.sweep import sweep_command
from unweave.cli.verify import verify_command
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.datasets.base import DatasetConfig, Split, TextDataset
from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.topk import TopK
from unweave.formats import load
from unweave.models.hooks import resolve
from unweave.recipes.sources import open_data, reader_of, source_of
from unweave.report import build_report
from unweave.store.activations import Activations
from unweave.store.layout import Layout
from unweave.train import Training, train

Flat = tyro.conf.arg(name="")
console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class StageArguments:
    """Flags of every command that leaves an artifact."""

    seed: int = 0
    "every random choice comes from it"
    overwrite: bool = False
    "replace another artifact in --out"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


@dataclass(frozen=True, kw_only=True)
class CaptureArguments(StageArguments, NetworkArguments):
    """Flags of `unweave capture`."""

    capture: Annotated[Capture, Flat]
    out: str
    "folder or URL (s3://, gs://) of the activation store; several hook points get a subfolder each"
    grid: Annotated[Layout | None, Grid] = None
    "places of the module's grid, and tokens before them, where shapes leave it open: 7x7, 7x7+1, or 7x7:last"


def capture_command(given: list[str], program: str) -> None:
    """Capture a network's hidden activations of a data set into a store."""
    default = unfilled(CaptureArguments, capture=unfilled(Capture))
    read = parse(CaptureArguments, default, given, program=program, description=_text(capture_command))
    refuse_empty(read.capture.at, program)
    read.runtime.apply()
    source = read.source(read.seed)
    examples = source.dataset()
    model = source.build(examples).to(read.runtime.torch_device())
    kept = ("rows", "side", "dtype", "mean", "std", "prefix")
    options = {name: getattr(read.capture, name) for name in kept}
    names = resolve(model, read.capture.at)
    captured = capture(
        model,
        examples,
        at=names[0] if len(names) == 1 else names,
        out=read.out,
        batch_size=read.batch_size,
        overwrite=read.overwrite,
        source=source.as_json(),
        layout=read.grid,
        **options,
    )
    for store in captured.values() if isinstance(captured, dict) else [captured]:
        console.print(f"{store.n:,} rows of width {store.d_in} from {store.hook_name}: {store.place}")


@dataclass(frozen=True, kw_only=True)
class TrainArguments(StageArguments):
    """Flags of `unweave train`."""

    activations: tyro.conf.Positional[str]
    "an activation store: its folder or URL"
    out: Path
    "folder of the dictionary"
    sae: DictionaryConfig = field(default_factory=TopK)
    "the dictionary"
    training: Training = field(default_factory=Training)


def train_command(given: list[str], program: str) -> None:
    """Train a dictionary on a store of activations; a killed training goes on where it was."""
    if asked_to_stream(given):
        stream_train_command(given, program)
        return
    default = unfilled(TrainArguments)
    refuse_neither(given, program)
    read = parse(TrainArguments, default, given, program=program, description=_text(train_command) + STREAM_HELP)
    read.runtime.apply()
    dictionary = train(
        Activations(read.activations),
        read.sae,
        read.training,
        seed=read.seed,
        out=read.out,
        overwrite=read.overwrite,
        runtime=read.runtime,
    )
    console.print(f"{dictionary}: {read.out}")


@dataclass(frozen=True, kw_only=True)
class AnalyzeArguments(StageArguments):
    """Flags of `unweave analyze`."""

    dictionary: tyro.conf.Positional[str]
    "a dictionary's folder, another library's, or hf://ORG/REPO[/FOLDER]"
    activations: tyro.conf.Positional[str]
    "the activation store to judge it on, its folder or URL: held-out rows"
    out: Path
    "folder of the atlas"
    data: DatasetConfig | None = None
    "the images or texts that were captured, to show the strongest examples; by default as the store says"
    split: Split = "test"
    "which part of them"
    data_dir: Path | None = None
    "where the data lie, for data sets made of files"
    analysis: Analysis = field(default_factory=Analysis)


def analyze_command(given: list[str], program: str) -> None:
    """Say what each latent of a dictionary stands for, as an atlas."""
    named = taken(given, "--data")
    data = None if named is None else cast("DatasetConfig", component(DatasetConfig, named))
    default = unfilled(AnalyzeArguments, data=data)
    known = ", ".join(DatasetConfig.registry.members())
    offer = "" if data else f"\n\n--data NAME shows the strongest examples as images: {known}."
    read = parse(AnalyzeArguments, default, given, program=program, description=_text(analyze_command) + offer)
    read.runtime.apply()
    activations = Activations(read.activations)
    atlas = analyze(
        load(read.dictionary).to(read.runtime.torch_device()),
        activations,
        **_shown(read, activations),
        analysis=read.analysis,
        seed=read.seed,
        out=read.out,
        overwrite=read.overwrite,
    )
    for name, value in atlas.metrics.items():
        console.print(f"{name:42} {value:.6g}")
    console.print(f"Atlas: {atlas.folder}")


def _shown(read: AnalyzeArguments, activations: Activations) -> dict[str, Any]:
    """The images to show, or the tokens of the texts, where they are known."""
    source = source_of(activations)
    if read.data is not None:
        data = open_data(read.data, None if source is None else source.model, read.split, read.data_dir)
    elif source is None:
        return {}
    else:
        try:
            data = source.captured(activations, read.data_dir)
        except InputError as error:
            console.print(f"The examples are not shown: {error}")
            return {}
    if not isinstance(data, TextDataset):
        return {"images": data}
    if source is None:
        raise InputError(f"{activations.folder} does not say by which model's tokenizer its texts were read")
    return {"tokens": reader_of(source.build(data)).tokens(data.texts)}


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Flags of `unweave report`."""

    folder: tyro.conf.Positional[Path]
    "a run's folder, or the folder of one dictionary, atlas or model"


def report_command(given: list[str], program: str) -> None:
    """Make the page and the figures of a run, or of one artifact, again."""
    default = unfilled(ReportArguments)
    read = parse(ReportArguments, default, given, program=program, description=_text(report_command))
    console.print(f"Report: {build_report(read.folder).resolve()}")


def _text(command: Callable[[list[str], str], None]) -> str:
    return command.__doc__ or ""


COMMANDS: dict[str, Callable[[list[str], str], None]] = {
    "run": run_command,
    "sweep": sweep_command,
    "bench": bench_command,
    "recipes": recipes_command,
    "capture": capture_command,
    "train": train_command,
    "analyze": analyze_command,
    "steer": steer_command,
    "compare": compare_command,
    "query": query_command,
    "study": study_command,
    "map": map_command,
    "import": import_command,
    "export": export_command,
    "push": push_command,
    "pull": pull_command,
    "report": report_command,
    "verify": verify_command,
    "serve": serve_command,
}
