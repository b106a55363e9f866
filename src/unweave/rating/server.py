"""The raters' server: pages and API behind tokens, and nothing else."""

import socket
import warnings
from collections.abc import Callable
from html import escape

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unweave.core.errors import InputError
from unweave.rating import words
from unweave.rating.api import DESCRIPTION, build_api
from unweave.rating.desk import Desk
from unweave.rating.pages import rater_page
from unweave.study import Study

_TITLE = "Rating study"
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><g fill="#1f6feb"><rect x="1" y="1" width="6" '
    'height="6" rx="1"/><rect x="9" y="9" width="6" height="6" rx="1"/></g><g fill="#8b949e"><rect x="9" y="1" '
    'width="6" height="6" rx="1"/><rect x="1" y="9" width="6" height="6" rx="1"/></g></svg>'
)
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
# The page's own scripts, styles and socket: they hold nothing of a study, and the socket says nothing to whoever was
# not given a page.
_ASSETS = ("/_nicegui/", "/_nicegui_ws/", "/favicon.ico")
_RECONNECT_SECONDS = 30.0
_LEAVE_SECONDS = 3


class Guard:
    """Lets through what has a known token and the page's own assets; all else is a page that says so."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if not self._known(str(scope["path"])):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await _nothing_here(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _known(self, path: str) -> bool:
        if path.startswith(_ASSETS) or path == DESCRIPTION:
            return True
        _, first, token, *_ = [*path.split("/"), "", ""]
        return first in {"r", "api"} and self._desk.rater(token) is not None


_STYLE = "font: 18px/1.5 system-ui, sans-serif; max-width: 32em; margin: 20vh auto; padding: 0 1em"
_nothing_here = HTMLResponse(
    f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title>'
    '<meta name="color-scheme" content="light dark"><meta name="viewport" content="width=device-width"></head>'
    f'<body style="{_STYLE}"><p>{escape(words.GONE)}</p></body></html>',
    status_code=404,
)


def application(desk: Desk) -> FastAPI:
    """Pages and API of one study. NiceGUI's pages belong to the process, so make only one in each."""
    app = build_api(desk)

    @ui.page("/r/{token}", title=_TITLE, response_timeout=30.0)
    def page(token: str) -> None:
        rater = desk.rater(token)
        assert rater is not None, "the guard lets known tokens through only"
        rater_page(desk, rater, token)

    # It looks at every object there is when it starts, deprecated ones of torch too.
    warnings.filterwarnings("ignore", message=".*torch.distributed.reduce_op", category=FutureWarning)
    ui.run_with(
        app,
        title=_TITLE,
        favicon=_ICON,
        dark=None,
        language="en-US",
        reconnect_timeout=_RECONNECT_SECONDS,
        show_welcome_message=False,
    )
    app.add_middleware(Guard, desk=desk)
    return app


def serve(
    study: Study, *, host: str = "127.0.0.1", port: int = 8090, announce: Callable[[str, dict[str, str]], None]
) -> None:
    """Serve a study's pages until interrupted.

    Args:
        study: which.
        host: address to listen on; raters elsewhere need another than loopback.
        port: 0 takes a free one.
        announce: gets the server's address and each rater's link once the port is taken.

    Raises:
        InputError: the address cannot be listened on.
    """
    desk = Desk(study)
    listening = _listen(host, port)
    shown = socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not listened on
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}"
    app = application(desk)
    announce(address, desk.links(address))
    # No access log: links are secrets.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_LEAVE_SECONDS)
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # who comes before the server is ready waits, and is not refused
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); choose another --port or --host") from None
    return listening
