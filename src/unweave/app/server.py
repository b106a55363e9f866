"""The server: pages and API of one library, behind its guard."""

import contextlib
import secrets
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, JSONResponse, Response
from nicegui import ui
from starlette.requests import Request
from starlette.types import ASGIApp

from unweave.app import api
from unweave.app.guard import LOOPBACK, Guard
from unweave.app.opened import Library
from unweave.app.pages import atlas, compare, home, image, latent, overview, steer, study
from unweave.app.pages.frame import theme_route
from unweave.app.shelf import Shelf
from unweave.app.studies import study_figure
from unweave.core.errors import InputError
from unweave.core.progress import silenced
from unweave.datasets.base import DatasetConfig
from unweave.dictionaries.base import DictionaryConfig
from unweave.models.base import ModelConfig
from unweave.recipes.base import FIGURES, RECIPES
from unweave.report.page import REPORT

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on
_FIGURE_KINDS = (".png", ".svg")
_LEAVE_SECONDS = 1  # that answers under way get when the server ends; open pages would hold it for ever
_ROOMS = (home, overview, atlas, latent, steer, image, compare, study)


def build(library: Library) -> FastAPI:
    """Pages, API and the files of reports."""
    app = FastAPI(
        title="Unweave", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", version="1"
    )  # the usual pages of documentation fetch their scripts from elsewhere
    app.include_router(api.router(library))
    app.add_api_route("/theme/{mode}", theme_route, include_in_schema=False)

    @app.get("/files/{run}/{name}", include_in_schema=False)
    def report(run: str, name: str) -> Response:
        if name != REPORT:
            raise HTTPException(404)
        return _file(api.known_run(library, run).entry.folder / REPORT)

    @app.get("/files/{run}/figures/{name}", include_in_schema=False)
    def figure(run: str, name: str) -> Response:
        if Path(name).suffix not in _FIGURE_KINDS or "/" in name or "\\" in name or name.startswith("."):
            raise HTTPException(404)
        return _file(api.known_run(library, run).entry.folder / FIGURES / name)

    @app.get("/files/{run}/studies/{study}/{name}", include_in_schema=False)
    def study_result(run: str, study: str, name: str) -> Response:
        found = study_figure(api.known_run(library, run), study, name)
        if found is None:
            raise HTTPException(404)
        return _file(found)

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    for one in _ROOMS:
        one.add(library)
    with _unwarned():
        ui.run_with(app, title="Unweave", dark=None, favicon="🧶", reconnect_timeout=10, show_welcome_message=False)
    return app


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Quiet while NiceGUI looks at every object that there is, deprecated ones of torch too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.reduce_op", category=FutureWarning)
        yield


def _file(path: Path) -> Response:
    if not path.is_file():
        raise HTTPException(404)
    return FileResponse(path)


def serve(
    places: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    data_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve run folders until interrupted, by Ctrl-C or a signal.

    Args:
        places: run folders, or folders of run folders.
        host: address to listen on. Any other than this machine's own needs a token: one is made where none is given.
        port: where to listen; 0 takes a free one.
        token: what whoever asks must know.
        data_dir: where the runs' data lie, where they do not say.
        say: tells the address.

    Raises:
        InputError: a place is not there, or the port is taken.
    """
    shelf = Shelf(places)
    for family in (RECIPES, DictionaryConfig.registry, DatasetConfig.registry, ModelConfig.registry):
        family.members()  # found now, not while the first visitor waits
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(18)
    listening = listen(host, port)  # first: a port that is taken is said at once
    guarded: ASGIApp = Guard(build(Library(shelf, data_dir)), token)
    # No access log: addresses can hold the token.
    config = uvicorn.Config(guarded, log_level="warning", access_log=False, timeout_graceful_shutdown=_LEAVE_SECONDS)
    shown = socket.gethostname() if host in _EVERYWHERE else host
    name = f"[{shown}]" if ":" in shown else shown
    query = f"/?token={token}" if token else "/"
    count = len(shelf.entries())
    say(f"Unweave shows {count} folder{'' if count == 1 else 's'} at http://{name}:{listening.getsockname()[1]}{query}")
    if token and host not in LOOPBACK:
        say("Whoever has this link can read the runs, write notes and steer; it is not encrypted on its way.")
    with silenced(), _unwarned(), contextlib.suppress(KeyboardInterrupt):  # pages call stages that show progress
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the address is none of this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # who comes before the server is ready waits, and is not refused
    except (OSError, OverflowError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot listen on {host} port {port}: {why}; choose another --port or --host") from None
    return listening
