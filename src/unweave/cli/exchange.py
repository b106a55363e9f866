"""`unweave import`, `export`, `push` and `pull`: dictionaries from and for other libraries, and the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from unweave.cli.parsing import parse, unfilled
from unweave.dictionaries.base import Dictionary
from unweave.formats import export, load, pull, push
from unweave.formats.base import Format

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Flags of `unweave import`."""

    place: tyro.conf.Positional[str]
    "a folder, a file, or hf://ORG/REPO[/FOLDER]"
    out: Path
    "folder of the dictionary"
    format: str | None = None
    "what it is written in; found out from the files by default"
    hook: str | None = None
    "the module whose output its rows are, where the files do not say it or mean another name"
    overwrite: bool = False
    "replace another artifact in --out"


def import_command(given: list[str], program: str) -> None:
    """Make a dictionary of another library one of Unweave's own."""
    read: ImportArguments = _parse(ImportArguments, import_command, given, program)
    dictionary = load(read.place, format=read.format)
    if read.hook is not None:
        dictionary.hook_name = read.hook
    dictionary.save(read.out, overwrite=read.overwrite)
    console.print(f"{_said(dictionary)}: {read.out}")


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Flags of `unweave export`."""

    place: tyro.conf.Positional[str]
    "a dictionary's folder; other libraries' and hf://ORG/REPO too"
    out: Path
    "a new folder"
    format: str = "saelens"
    "what to write it in"


def export_command(given: list[str], program: str) -> None:
    """Write a dictionary as another library reads it."""
    read: ExportArguments = _parse(ExportArguments, export_command, given, program)
    dictionary = load(read.place)
    folder = export(dictionary, read.out, format=read.format)
    console.print(f"{_said(dictionary)} as {read.format}: {folder}")


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """Flags of `unweave push`."""

    folder: tyro.conf.Positional[Path]
    "a dictionary's folder, or a run's: then all of its dictionaries"
    repo: tyro.conf.Positional[str]
    "ORG/NAME on the hub; it is made where it does not exist"
    measured: Path | None = None
    "a run's folder or an atlas of the dictionary, for the numbers on the card; a run brings its own"
    private: bool = False
    "a repository that has to be made is private"
    revision: str | None = None
    "branch to push to; the main one by default"
    license: str = "unknown"
    "the hub's identifier of a licence, for example mit"
    message: str | None = None
    "of the commit"


def push_command(given: list[str], program: str) -> None:
    """Put a dictionary, or those of a run, on the hub, with a model card."""
    read: PushArguments = _parse(PushArguments, push_command, given, program)
    options: dict[str, Any] = {
        name: getattr(read, name) for name in ("measured", "private", "revision", "license", "message")
    }
    console.print(f"Pushed: {push(read.folder, read.repo, **options)}")


@dataclass(frozen=True, kw_only=True)
class PullArguments:
    """Flags of `unweave pull`."""

    repo: tyro.conf.Positional[str]
    "ORG/REPO, or hf://ORG/REPO[@REVISION][/FOLDER]"
    out: Path
    "folder of the dictionary; where the repository holds several, each gets one in it"


def pull_command(given: list[str], program: str) -> None:
    """Fetch a dictionary, or all of a repository's, from the hub."""
    read: PullArguments = _parse(PullArguments, pull_command, given, program)
    for folder in pull(read.repo, read.out).values():
        console.print(f"{_said(load(folder))}: {folder}")


def _parse(form: Any, command: Callable[[list[str], str], None], given: list[str], program: str) -> Any:
    text = command.__doc__ or ""
    if "format" in form.__dataclass_fields__:
        text += f"\n\nFormats: unweave, {', '.join(Format.registry.members())}."
    return parse(form, unfilled(form), given, program=program, description=text)


def _said(dictionary: Dictionary) -> str:
    hook = dictionary.hook_name or "not known"
    kind = dictionary.config.kind + (f" of rows by {dictionary.row_norm}" if dictionary.row_norm else "")
    return f"{kind}, d_in {dictionary.d_in}, d_sae {dictionary.d_sae}, hook {hook}"
