"""Recipes: named experiments, each one function of a configuration and a run folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

from unweave.core.config import fingerprint, to_json
from unweave.core.distributed import ranks
from unweave.core.errors import InputError, StoreError, did_you_mean
from unweave.core.registry import Registry
from unweave.core.runtime import Runtime
from unweave.figures.files import write
from unweave.recipes.sections import Section, Shown, table
from unweave.store.artifact import (
    FILES,
    check_place,
    device_summary,
    file_entry,
    library_versions,
    read_json,
    write_json,
)
from unweave.store.drafts import is_draft, readable

C = TypeVar("C")
RUN = "run.json"
METRICS = "metrics.json"
FIGURES = "figures"


@dataclass(eq=False)
class Run:
    """One execution of a recipe: a folder with `run.json`, `metrics.json` and the artifacts.

    Attributes:
        folder: where it lives.
        seed: what every random choice in it comes from.
        data_dir: where the user's data lie.
        runtime: device and the like.
        metrics: flat mapping from name to number, as `stage/metric` or `stage/metric@condition`.
        artifacts: folder of each artifact by its role, for example `model`, `sae`, `atlas@pca`.
        findings: sentences that the report shows first.
        sections: what the page tells, in order. A recipe that writes none gets a page made of its artifacts.
    """

    folder: Path
    seed: int
    data_dir: Path | None = None
    runtime: Runtime = field(default_factory=Runtime)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def place(self, role: str) -> Path:
        """Folder for the artifact in this role; it is entered into the run."""
        self.artifacts[role] = self.folder / "artifacts" / role
        return self.artifacts[role]

    def record(self, metrics: Mapping[str, float], *, condition: str = "") -> None:
        """Enter metrics, under `name@condition` where there is one."""
        suffix = f"@{condition}" if condition else ""
        self.metrics.update({f"{name}{suffix}": value for name, value in metrics.items()})

    def section(self, title: str, text: str = "") -> None:
        """Begin a section of the page; figures and tables go into the last one begun."""
        self.sections.append(Section(title=title, text=text))

    def show(self, name: str, figure: Figure, caption: str) -> None:
        """Write a figure into `figures/` as PNG and SVG, and show it in the section."""
        write(figure, self.folder / FIGURES, name)
        self.sections[-1].figures.append(Shown(figure=name, caption=caption))

    def table(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "", main: int | None = None
    ) -> None:
        """Show a table of words in the section; `main` is the column that stands out."""
        self.sections[-1].tables.append(table(headings, rows, note=note, main=main))


@dataclass(frozen=True)
class Reported:
    """A dictionary that the published form of an experiment reports: its L0, and its squared error a row."""

    name: str
    l0: float
    error: float


@dataclass(frozen=True)
class Recipe(Generic[C]):
    """A named experiment.

    Attributes:
        name: what the command line calls it.
        config: type of its configuration.
        presets: configurations by name; `default` is what should be computed.
        function: the experiment.
        reported: dictionaries that its published form reports.
        and_atlas: whether what the atlas has to show follows the sections on the page.
    """

    name: str
    config: type[C]
    presets: Mapping[str, C]
    function: Callable[[C, Run], None]
    reported: Sequence[Reported] = ()
    and_atlas: bool = False

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def preset(self, name: str) -> C:
        """A configuration by name.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.presets:
            raise InputError(f"the recipe {self.name!r} has no preset {name!r}: {did_you_mean(name, self.presets)}")
        return self.presets[name]


RECIPES: Registry[Recipe[Any]] = Registry("recipe", "unweave.recipes")


def recipe(
    name: str, *, reported: Sequence[Reported] = (), and_atlas: bool = False, **presets: C
) -> Callable[[Callable[[C, Run], None]], Callable[[C, Run], None]]:
    """Function decorator: register an experiment with its presets, of which one is called `default`."""

    def enter(function: Callable[[C, Run], None]) -> Callable[[C, Run], None]:
        RECIPES.add(name, Recipe(name, type(presets["default"]), presets, function, reported, and_atlas))
        return function

    return enter


def default_folder(name: str, config: Any, seed: int) -> Path:
    """Where a run goes that was given no folder: the same configuration and seed find their run again."""
    return Path("runs") / f"{name}-{fingerprint(name, config, seed)[:8]}"


def execute(
    name: str,
    config: Any,
    *,
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    runtime: Runtime | None = None,
) -> Run:
    """Run a recipe into a folder. A run that was killed goes on where it was; a finished one is read back.

    Raises:
        InputError: the folder holds something else, or the configuration does not belong to the recipe.
    """
    chosen = RECIPES[name]
    if not isinstance(config, chosen.config):
        raise InputError(f"the recipe {name!r} takes a {chosen.config.__name__}, got a {type(config).__name__}")
    run = Run(out or default_folder(name, config, seed), seed, data_dir, runtime or Runtime())
    carry_out(run, {"recipe": name, "config": to_json(config), "seed": seed}, lambda run: chosen.function(config, run))
    return run


def carry_out(
    run: Run, description: Mapping[str, Any], work: Callable[[Run], None], *, aim: Mapping[str, Any] | None = None
) -> None:
    """Do a run's work in its folder, and write what came of it: `run.json` and `metrics.json`.

    Args:
        run: whose folder is made, or gone on with.
        description: what the folder is for.
        work: stages and records.
        aim: what of the work may change in the same folder. Where it is the same and the run was complete, `run.json`
            goes on to say how its numbers came about, not how they were read back.

    Raises:
        InputError: the folder holds something else.
    """
    aim = aim or {}
    device = str(run.runtime.torch_device())
    facts = {"versions": library_versions(), "hardware": {**device_summary(), "device": device}}
    lies = {} if run.data_dir is None else {"data_dir": str(run.data_dir.expanduser().absolute())}
    here = ranks()  # of several processes, the first writes
    before = here.from_first(_claim(run.folder, description) if here.first else {})
    started = time.monotonic()
    if before.get("status") == "complete" and all(before.get(key) == value for key, value in aim.items()):
        facts = {key: before[key] for key in (*facts, "wall_seconds")}
    elif here.first:
        begun = {**description, **aim, **lies, "status": "running", **facts}
        try:
            write_json(run.folder / RUN, begun, sealed=True, new=not before)
        except FileExistsError:  # another process has begun here meanwhile; where it does the same, both go on
            _claim(run.folder, description)
    try:
        work(run)
    except InputError:
        if here.first and not before:
            _give_up(run.folder)
        raise
    if not here.first:
        return
    write_json(run.folder / METRICS, run.metrics)
    artifacts = {role: path.relative_to(run.folder).as_posix() for role, path in run.artifacts.items()}
    told = {"findings": run.findings, "sections": to_json(run.sections)}
    ended = {"wall_seconds": round(time.monotonic() - started, 2), "artifacts": artifacts, **told}
    ended[FILES] = {METRICS: to_json(file_entry(run.folder / METRICS))}
    write_json(run.folder / RUN, {**description, **aim, **lies, "status": "complete", **ended, **facts}, sealed=True)


def _give_up(folder: Path) -> None:
    """Leave no claim to a folder in which nothing came about: the right settings find it free."""
    with suppress(FileNotFoundError):  # somebody has removed it
        if [path.name for path in folder.iterdir()] == [RUN]:
            (folder / RUN).unlink()
            folder.rmdir()


def read_metrics(folder: Path) -> dict[str, Any]:
    """The numbers of a complete run; null where one could not be had.

    Raises:
        StoreError: there are none, or they are not those that the run left.
    """
    run, numbers = read_json(folder / RUN), read_json(folder / METRICS)
    files = run.get(FILES, {}) if isinstance(run, dict) and run.get("status") == "complete" else {}
    said = files.get(METRICS)
    if not isinstance(numbers, dict) or said not in (None, to_json(file_entry(folder / METRICS))):
        raise StoreError(f"{folder / METRICS} was changed or damaged; start the same run again, which writes it anew")
    return numbers


def _claim(folder: Path, description: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make the folder, and give what an earlier execution of the same run wrote about itself."""
    found: dict[str, Any] = {}
    with readable(folder):
        check_place(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a run needs a folder")
        if (folder / RUN).is_file():
            found = read_json(folder / RUN)
            if not isinstance(found, dict) or any(found.get(key) != value for key, value in description.items()):
                raise InputError(f"{folder} holds another run (other recipe, settings or seed); choose another --out")
        elif folder.is_dir() and any(not is_draft(path, of=RUN) for path in folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no run; choose another --out")
    try:
        folder.resolve().mkdir(parents=True, exist_ok=True)  # behind a link, which may lead to what is not there yet
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from None
    return found
