"""`unweave serve`: the app over run folders."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import InputError
from unweave.core.optional import needs

console = Console(highlight=False, soft_wrap=True, markup=False)
_RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Flags of `unweave serve`."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    "run folders, or folders of run folders; by default runs/"
    host: str = "127.0.0.1"
    "address to listen on; any but this machine's own asks visitors for a token"
    port: int = 8080
    "where to listen; 0 takes a free one"
    token: str | None = None
    "what visitors must know; made at random where the address needs one and none is given"
    data_dir: Path | None = None
    "where the runs' images lie, where they do not say"


def serve_command(given: list[str], program: str) -> None:
    """Serve a local web app over run folders: atlas, latents, steering, your image, comparisons, studies."""
    description = serve_command.__doc__ or ""
    read = parse(ServeArguments, unfilled(ServeArguments), given, program=program, description=description)
    if not read.folders and not _RUNS.is_dir():
        raise InputError("there is no folder runs/ here; name run folders, or make a run first: unweave run digits")
    if not 0 <= read.port <= 65535:
        raise InputError(f"--port must lie from 0 to 65535, got {read.port}")
    if read.token == "":
        raise InputError("--token must not be empty; leave it out to have one made, or to need none here")
    needs("nicegui", extra="app", what="the app")
    from unweave.app.server import serve  # noqa: PLC0415 - comes with an extra

    folders = read.folders or (_RUNS,)
    serve(folders, host=read.host, port=read.port, token=read.token, data_dir=read.data_dir, say=console.print)
