"""Who is let in."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from unweave.app.guard import Guard

TOKEN = "a-secret"
SOCKET = "ws://localhost:8080/socket"
WRONG = ["", "?token=", "?token=A-secret", "?token=a-secre", "?token=a-secret2", "?x=a-secret"]


async def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"inside {request.url.query}")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("inside")
    await socket.close()


def _client(token: str | None, host: str = "localhost") -> TestClient:
    app = Starlette(
        routes=[
            Route("/x", _page, methods=["GET", "POST"]),
            Route("//evil.example/", _page),
            WebSocketRoute("/socket", _socket),
        ]
    )
    return TestClient(Guard(app, token), base_url=f"http://{host}:8080", follow_redirects=False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert _client(None, host).get("/x").text == "inside "


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.0.3", "x]"])
def test_other_names_for_this_machine_are_refused(host: str) -> None:
    answer = _client(None).get("/x", headers={"host": host})
    assert answer.status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        _client(None).websocket_connect(SOCKET, headers={"host": host}),
    ):
        pass


def test_other_sites_may_not_change_anything_nor_open_a_socket() -> None:
    client, elsewhere = _client(None), {"origin": "http://evil.example"}
    assert client.post("/x", headers=elsewhere).status_code == 403
    assert client.post("/x", headers={"origin": "null"}).status_code == 403
    assert client.post("/x", headers={"origin": "http://localhost:8080"}).status_code == 200
    assert client.post("/x", headers={"origin": "http://localhost:9090"}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers=elsewhere):
        pass
    with client.websocket_connect(SOCKET, headers={"origin": "http://localhost:8080"}) as socket:
        assert socket.receive_text() == "inside"


@pytest.mark.parametrize(
    "given", ["", "?token=", "?token=A-secret", "?token=a-secre", "?token=a-secret2", "?x=a-secret"]
)
def test_wrong_tokens_get_in_nowhere(given: str) -> None:
    client = _client(TOKEN, "203.0.113.7")
    assert client.get(f"/x{given}").status_code == 401
    assert client.get("/x", headers={"authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/x", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    assert client.get("/x", headers={"cookie": "unweave_token=%C3%A4; ;;="}).status_code == 401
    assert client.get("/x", headers={"cookie": b"unweave_token=\xe4"}).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://localhost:8080/socket{given}"):
        pass


def test_the_link_leaves_a_cookie_and_goes_where_it_said() -> None:
    client = _client(TOKEN, "203.0.113.7")
    answer = client.get(f"/x?a=1&token={TOKEN}&b=2")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/x?a=1&b=2"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert client.get("/x").text == "inside "
    with client.websocket_connect("ws://203.0.113.7:8080/socket") as socket:
        assert socket.receive_text() == "inside"


def test_a_notebook_sends_the_token_in_its_header() -> None:
    answer = _client(TOKEN, "203.0.113.7").post("/x", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200


def test_the_link_leads_nowhere_else() -> None:
    answer = _client(TOKEN).get(f"//evil.example/?token={TOKEN}", headers={"host": "localhost:8080"})
    assert answer.status_code in (303, 401)
    assert not answer.headers.get("location", "/").startswith("//")
