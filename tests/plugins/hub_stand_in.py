"""A small stand-in for the Hugging Face hub: repositories in memory, the few addresses that push and pull ask for."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

TOKEN = "hf_stand_in"


@dataclass
class Repo:
    """Files by path, of each branch; and whether it may be seen without a token."""

    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    private: bool = False
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for branch, files in self.branches.items():
            sha = _sha(files)
            if revision in (branch, sha):
                return sha, files
        return None


def _sha(files: dict[str, bytes]) -> str:
    return hashlib.sha1(
        b"".join(name.encode() + b"\0" + content for name, content in sorted(files.items()))
    ).hexdigest()


class Hub:
    """The stand-in; `repos` is what it holds, `asked` what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[str] = []
        self.endpoint = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.asked.append(f"{method} {path}")
        path = unquote(path.partition("?")[0])
        if path == "/api/validate-yaml":
            return 200, {}, b'{"errors": [], "warnings": []}'
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|preupload|commit|branch)/(.+))?", path)
        if found:
            return self._api(method, *found.groups(), body, token)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found:
            return self._file(*found.groups(), token)
        return 404, {}, b"{}"

    def _create(self, wanted: dict[str, Any], token: str | None) -> tuple[int, dict[str, str], bytes]:
        if token != TOKEN:
            return 401, {}, b'{"error": "Invalid username or password."}'
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in self.repos:
            return 409, {}, json.dumps({"url": f"{self.endpoint}/{name}"}).encode()
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.repos[name] = Repo(private=private)
        return 200, {}, json.dumps({"url": f"{self.endpoint}/{name}"}).encode()

    def _seen(self, name: str, token: str | None) -> Repo | None:
        repo = self.repos.get(name)
        return None if repo is None or (repo.private and token != TOKEN) else repo

    def _api(  # noqa: PLR0911 - an answer for each address
        self, method: str, name: str, what: str | None, revision: str | None, body: bytes, token: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        repo = self._seen(name, token)
        if repo is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
        if what == "branch":
            repo.branches.setdefault(revision, dict(repo.branches["main"]))
            return 200, {}, b"{}"
        found = repo.at(revision or "main")
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
        sha, files = found
        if what in ("preupload", "commit") and token != TOKEN:
            return 403, {}, b'{"error": "You do not have write access"}'
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return 200, {}, json.dumps({"files": modes}).encode()
        if what == "commit":
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "header":
                    repo.messages.append(line["value"]["summary"])
                else:
                    assert line["key"] == "file", line
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            done = {"commitUrl": f"{self.endpoint}/{name}/commit/{_sha(files)}", "commitOid": _sha(files)}
            return 200, {}, json.dumps({**done, "commitMessage": "", "hookOutput": "", "success": True}).encode()
        siblings = [{"rfilename": path} for path in sorted(files)]
        info = {"id": name, "modelId": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
        return 200, {}, json.dumps(info).encode()

    def _file(self, name: str, revision: str, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        repo = self._seen(name, token)
        if repo is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        found = repo.at(revision)
        if found is None or path not in found[1]:
            return 404, {"X-Error-Code": "EntryNotFound" if found else "RevisionNotFound"}, b""
        content = found[1][path]
        return 200, {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in on a port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._body()
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, content = hub.answer(self.command, self.path, body, token)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - the server looks for these names

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected(hub: Hub, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub, if it is installed, asks the stand-in, keeps its cache in a folder, and has the token."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"ENDPOINT": hub.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": cache}
    for name, value in {**settings, "HF_HUB_OFFLINE": False, "HF_TOKEN_PATH": f"{cache}/no-token"}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
