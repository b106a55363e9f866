"""A real server: killed between two ratings it loses nothing, and strangers get nothing."""

import asyncio
import http.client
import json
import signal
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import websockets

from unweave.study import Study


def rate(api: str, place: dict[str, Any], value: int) -> dict[str, Any]:
    """Rate the present grid and give the next place."""
    answer = httpx.post(f"{api}/rate", json={**place["current"], "value": value})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["place"])


def test_a_killed_server_loses_nothing_that_was_answered(study: Study, serving: Callable) -> None:
    server = serving(study.folder, fork=False)
    api = server.api("rater-1")
    place = httpx.post(f"{api}/next").json()
    for value in (1, 2, 3):
        place = rate(api, place, value)
    in_flight = {**place["current"], "value": 4}
    httpx.post(f"{api}/rate", json=in_flight)  # the answer is lost on the way, say
    links = server.links
    server.end(signal.SIGKILL)
    assert [rating.value for rating in study.ratings()] == [1, 2, 3, 4]

    again = serving(study.folder, port=server.port)
    assert again.links == links, "the same links, on the same port"
    sent_again = httpx.post(f"{api}/rate", json=in_flight).json()
    assert sent_again["outcome"] == "there already"
    place = sent_again["place"]
    assert (place["done"], place["current"]) == (4, {"number": 4, "attempt": 0})
    rate(api, place, 5)
    assert [rating.value for rating in study.ratings()] == [1, 2, 3, 4, 5]
    assert stat.S_IMODE((study.folder / "links.json").stat().st_mode) == 0o600


def test_a_kill_among_requests_loses_no_answered_one(study: Study, serving: Callable) -> None:
    """Three raters rate as fast as they can; the server dies in the middle of it."""
    server = serving(study.folder)

    def work(rater: str) -> list[int]:
        answered: list[int] = []
        place = httpx.post(f"{server.api(rater)}/next").json()
        try:
            while place["current"] is not None:
                value = 1 + len(answered) % 7
                place = rate(server.api(rater), place, value)
                answered.append(value)
                if rater == "rater-1" and len(answered) == 5:
                    server.end(signal.SIGKILL)
        except httpx.TransportError:
            pass
        return answered

    with ThreadPoolExecutor(3) as pool:
        answered = dict(zip(study.plan.raters, pool.map(work, study.plan.raters), strict=True))
    assert len(answered["rater-1"]) == 5
    for rater in study.plan.raters:
        stored = [rating.value for rating in study.ratings() if rating.rater == rater]
        assert stored[: len(answered[rater])] == answered[rater]
        assert len(stored) <= len(answered[rater]) + 1, "at most the one whose answer was cut off"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/r",
        "/r/",
        "/r/wrong",
        "/r/{token}x",
        "/r/wrong/../{token}",
        "/api",
        "/api/wrong",
        "/api/wrong/next",
        "/api/wrong/grids/0",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/plan.json",
        "/key.sealed",
        "/ratings.sqlite",
        "/links.json",
        "/r/..%2f..%2fplan.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ],
)
def test_without_a_token_there_is_one_page_that_says_so(server: Any, path: str) -> None:
    answer = _raw(server, path.format(token=server.token("rater-1")))
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text
    assert len(answer.content) < 1000
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/api/{token}/grids/..%2f..%2fkey.sealed",
        "/api/{token}/../../key.sealed",
        "/api/{token}/grids/0/../../../key.sealed",
        "/r/{token}/key.sealed",
        "/r/{token}/../../plan.json",
        "/_nicegui/../../plan.json",
        "/_nicegui/..%2f..%2fplan.json",
        "/_nicegui/%2e%2e/%2e%2e/links.json",
        "/_nicegui/auto/static/..%2f..%2flinks.json",
    ],
)
def test_no_path_leads_out_of_what_is_served(server: Any, path: str) -> None:
    answer = _raw(server, path.format(token=server.token("rater-1")))
    assert answer.status_code in {404, 422}
    for secret in (b"commitment", b"unweave sealed", server.token("rater-2").encode(), b"SQLite"):
        assert secret not in answer.content


def _raw(server: Any, path: str) -> httpx.Response:
    """A request whose path is sent as it is written; httpx would tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", int(server.port), timeout=30)
    connection.request("GET", path or "/")
    answer = connection.getresponse()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def test_a_raters_page_and_headers(server: Any) -> None:
    answer = httpx.get(server.links["rater-1"])
    assert answer.status_code == 200
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


def test_the_socket_says_nothing_to_strangers(server: Any) -> None:
    async def listen() -> list[str]:
        heard: list[str] = []
        url = f"ws://127.0.0.1:{server.port}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        async with websockets.connect(url) as socket:
            heard.append(str(await socket.recv()))
            await socket.send("40")
            heard.append(str(await socket.recv()))
            handshake = {"client_id": "0", "tab_id": "t", "document_id": "d", "next_message_id": 0}
            await socket.send("420" + json.dumps(["handshake", handshake]))
            heard.append(str(await socket.recv()))
            await socket.send("42" + json.dumps(["event", {"client_id": "0", "id": 1, "listener_id": "x", "args": []}]))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.7)
        return heard

    heard = asyncio.run(listen())
    assert [said[:2] for said in heard] == ["0{", "40", "43"]
    assert heard[2] == "430[false]"


def test_other_sockets_are_refused(server: Any) -> None:
    async def connect() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/r/stranger"):
            pass

    with pytest.raises(websockets.exceptions.InvalidStatus):
        asyncio.run(connect())
