"""Who may ask: this machine's own browser, or whoever holds the token."""

import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "unweave_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Lets through what comes with the token, or, where there is none, what was addressed to this machine itself.

    It stands before pages, API, static files and web sockets alike. Without a token it refuses names other than the
    loopback's (a page elsewhere could point a name of its own at this machine), and in both cases web sockets and
    changes that a page of another origin asks for.

    Args:
        app: what is guarded.
        token: what must be known; it comes as `?token=`, as a bearer token or in the cookie that the first visit sets.
        names: host names that are this machine where there is no token.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, names: Sequence[str] = LOOPBACK) -> None:
        self._app, self._token, self._names = app, token, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and _name(host) not in self._names:
            return PlainTextResponse("Unweave answers to this machine's own address only.", 403)
        origin = headers.get("origin")
        asks = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if asks and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("Another site's page may not ask this.", 403)
        if self._token is None or self._equal(_cookie(headers)) or self._equal(_bearer(headers)):
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if scope["type"] == "http" and self._equal(dict(query).get("token", "")):
            return self._welcome(scope, [pair for pair in query if pair[0] != "token"])
        return PlainTextResponse("This address needs its token: open the link that `unweave serve` printed.", 401)

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> Response:
        """The same address without the token in it, which the browser now keeps."""
        path = "/" + scope["path"].lstrip("/")  # never `//host`, which would lead elsewhere
        answer = RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)
        answer.set_cookie(COOKIE, self._token or "", httponly=True, samesite="strict")
        return answer

    def _equal(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())


def _name(host: str) -> str:
    """The host's name without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _bearer(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""
