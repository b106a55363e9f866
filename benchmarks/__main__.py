"""All suites, one after the other, then the table: `python -m benchmarks`; in minutes with `--quick`.

Every suite has a process of its own, so that none inherits another's memory. That of the tuned steps gets an allocator
that keeps its pages: large blocks otherwise go back to the system after every use, and come back page by page. A quick
look has one process for all, to load the libraries only once, and leaves the page in docs/ as it is.
"""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import tyro

from benchmarks import table
from benchmarks.suite import NAMES, ROOT, Name, Options, run

_KEEPS_PAGES = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def main(
    options: tyro.conf.OmitArgPrefixes[Options] = Options(),  # noqa: B008
    suites: tuple[Name, ...] = NAMES,
) -> None:
    """Measure Unweave beside its peers, and write the table.

    Args:
        options: how to measure.
        suites: which suites.
    """
    if options.quick:
        if options.results == Options.results:
            options = replace(options, results=ROOT / "runs" / "benchmarks" / "quick")
        for name in suites:
            run(name, options)
        print(table.build(options.results))
        return
    for name in suites:
        environment = {**os.environ, **(_KEEPS_PAGES if name == "steps-tuned" else {})}
        command = [sys.executable, "-m", "benchmarks.suite", name, *_arguments(options)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    table.write(options.results, ROOT / "docs" / "performance.md", ROOT / "docs" / "images")


def _arguments(options: Options) -> list[str]:
    """The options as `benchmarks.suite` takes them, where they are not the default."""
    given: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name == "quick":
            continue
        values = [str(item) for item in value] if isinstance(value, tuple) else [str(_absolute(value))]
        given += [f"--{field.name}", *values]
    return given


def _absolute(value: object) -> object:
    return value.resolve() if isinstance(value, Path) else value


if __name__ == "__main__":
    tyro.cli(main)
