"""Entry point: finds the command, and turns errors into one line and an exit code."""

import io
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version

import torch
from rich.console import Console
from rich.table import Table

from unweave.cli.commands import COMMANDS
from unweave.cli.ranks import begin, launch, silent
from unweave.core.distributed import RankLostError
from unweave.core.errors import InputError, did_you_mean

_BAD_INPUT = 2
_FAULT = 1
_INTERRUPTED = 130
_NO_MEMORY = "can't allocate memory|Storage size calculation overflowed"  # torch says so in a plain RuntimeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code: 0, 2 for bad input, 1 for a fault of Unweave's own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe may know fewer letters than formulas use
    try:
        if given[:1] == ["--ranks"]:
            return launch(given[1:], debug=debug)
        with begin(given):
            _dispatch(given)
    except SystemExit as end:  # help was asked for
        return int(end.code or 0)
    except BrokenPipeError:  # what we print is read no further
        sys.stderr.close()
        return _FAULT
    except (Exception, KeyboardInterrupt) as error:
        if debug and not isinstance(error, (RankLostError, KeyboardInterrupt)):
            raise
        return _said(error)
    return 0


def _said(error: BaseException) -> int:
    """Say in one line what went wrong, unless another rank does; the exit code of it."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.quiet = silent() if not isinstance(error, RankLostError) else silent() or not str(error)
    if isinstance(error, KeyboardInterrupt):
        errors.print("interrupted; the same command goes on from the last checkpoint")
        return _INTERRUPTED
    if isinstance(error, RankLostError):
        errors.print(f"error: {error}", markup=False)
        return _FAULT
    if isinstance(error, InputError):
        errors.print("[bold red]error:[/] ", end="")
        errors.print(str(error), markup=False)
        return _BAD_INPUT
    errors.print(_fault(error), markup=False)
    return _FAULT


def _fault(error: BaseException) -> str:
    """What is said of an error that nobody expected: the machine's or Unweave's own."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror} (--debug shows where)"
    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or re.search(_NO_MEMORY, said):
        return f"error: the memory of this machine does not suffice ({said}); ask for less (--debug shows where)"
    return f"fault: {type(error).__name__}: {said} (Unweave's own; --debug shows where)"


def _dispatch(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help"):
        _help()
        if not given:
            raise InputError("which command?")
        return
    if given[0] == "--version":
        Console().print(f"unweave {version('unweave')}", highlight=False)
        return
    name = given.pop(0)
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}: {did_you_mean(name, COMMANDS)}")
    COMMANDS[name](given, f"unweave {name}")


def _help() -> None:
    console = Console(highlight=False)
    console.print("usage: unweave COMMAND [FLAGS]\n\nTake the features of a neural network apart.\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", (command.__doc__ or "").strip())
    console.print(table)
    console.print("\nunweave COMMAND --help lists a command's flags; --debug shows where an error came from.")


if __name__ == "__main__":
    sys.exit(main())
