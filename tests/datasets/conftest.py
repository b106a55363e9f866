"""A small web server on this machine that stands in for a mirror and can misbehave."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Mirror:
    """What the server gives, how it behaves and what it was asked for (path, Range header)."""

    files: dict[str, bytes]
    ranges: bool = True
    wrong_range: bool = False
    cuts: list[int] = field(default_factory=list)
    "number of bytes after which the first, second, ... answer breaks off"
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def mirror() -> Iterator[Callable[..., Mirror]]:
    """A function that starts one more mirror with these files and this behaviour."""
    servers = []

    def start(files: dict[str, bytes], **behaviour) -> Mirror:
        started = Mirror(files, **behaviour)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                _answer(self, started)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        started.url = f"http://127.0.0.1:{server.server_port}/"
        return started

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    name, wanted = handler.path.lstrip("/"), handler.headers.get("Range")
    mirror.asked.append((name, wanted))
    if name not in mirror.files:
        handler.send_error(404)
        return
    data, start = mirror.files[name], 0
    if wanted and mirror.ranges:
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(data):
            handler.send_error(416)
            return
        handler.send_response(206)
        first = start + 1 if mirror.wrong_range else start
        handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    else:
        handler.send_response(200)
    body = data[start:]
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: mirror.cuts.pop(0)] if mirror.cuts else body)
