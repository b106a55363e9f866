"""Stores at a URL whose server goes away, whose objects are cut or vanish, and whose writer is killed."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from faulting import ERROR, RIGHT
from faulting.stages import ALWAYS, images, network
from torch import nn

from unweave.capture import capture
from unweave.core.errors import StoreError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.topk import TopK
from unweave.store import order
from unweave.store.activations import Activations
from unweave.store.artifact import MANIFEST
from unweave.store.remote import RemoteFolder
from unweave.train import Training, train

if TYPE_CHECKING:
    from conftest import Ground

fsspec = pytest.importorskip("fsspec", reason="stores at a URL need fsspec")
Tally = Callable[[str], None]
_BUCKET = "s3://faults"
_BLOCK, _WINDOW = 512, 2400  # bytes, so that a pass over 15 kB takes many requests
_DURING = 25


@dataclass
class Server:
    """S3 on a port of this machine that can go away and come back with what it held."""

    running: Any
    make: Callable[[int], Any]

    @property
    def environment(self) -> dict[str, str]:
        """What a client has to know; it tries once, so that tests do not wait."""
        host, port = self.running.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_MAX_ATTEMPTS": "1"}

    def go_away(self) -> None:
        """From now on nobody answers."""
        self._port = self.running.get_host_and_port()[1]
        self.running.stop()

    def come_back(self) -> None:
        """On the same port."""
        self.running = self.make(self._port)
        self.running.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    moto = pytest.importorskip("moto.server", reason="tests of S3 need moto's server")
    system = pytest.importorskip("s3fs", reason="tests of S3 need s3fs").S3FileSystem

    def make(port: int) -> Any:
        return moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)

    found = Server(make(0), make)
    found.running.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        system.clear_instance_cache()
        fsspec.filesystem("s3").mkdir(_BUCKET)
        yield found
        system.clear_instance_cache()
    found.running.stop()


def captured(out: str | Path, net: nn.Module | None = None, **settings: Any) -> Activations:
    """What the inputs of all stages hold as `rows`, without labels."""
    settings = {"at": "2", "out": out, "batch_size": 40, "shard_bytes": 4096, **settings}
    return capture(net or network(), images(), **settings)  # type: ignore[no-any-return]


def trained(place: str | Path, out: Path) -> Dictionary:
    """Two passes, and a checkpoint at every step."""
    rows = Activations(place, window_bytes=_WINDOW)
    return train(rows, TopK(d_sae=24, k=3), Training(epochs=2, batch_size=32), out=out, runtime=ALWAYS)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[Activations, torch.Tensor]:
    """The store in a folder, and what is learned from it."""
    folder = tmp_path_factory.mktemp("right")
    rows = captured(folder / "rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK_BYTES", _BLOCK)
        return rows, trained(folder / "rows", folder / "sae").state_dict()["W_dec"]


def at_call(patch: pytest.MonkeyPatch, method: str, number: int, fault: Callable[[], None]) -> None:
    """Let something happen before a folder's method is called for the n-th time."""
    called, calls = getattr(RemoteFolder, method), []

    def counted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == number:
            fault()
        return called(*given)

    patch.setattr(RemoteFolder, method, counted)


@pytest.mark.parametrize("number", [1, 3])
def test_a_server_that_goes_away_while_a_store_is_captured(
    server: Server, number: int, right: tuple[Activations, torch.Tensor], tally: Tally
) -> None:
    url = f"{_BUCKET}/{uuid.uuid4().hex}/rows"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "put", number, server.go_away)
        with pytest.raises(StoreError, match=f"{url}/.* cannot be written"):
            captured(url)
    server.come_back()
    tally(ERROR)
    with pytest.raises(StoreError, match=f"it has no {MANIFEST}"):
        Activations(url)
    assert captured(url).manifest.files == right[0].manifest.files
    assert set(RemoteFolder(url).sizes()) == {*right[0].manifest.files, MANIFEST}
    tally(RIGHT)


def test_a_server_that_goes_away_while_a_training_reads(
    server: Server, right: tuple[Activations, torch.Tensor], tmp_path: Path, tally: Tally
) -> None:
    url = f"{_BUCKET}/{uuid.uuid4().hex}/rows"
    captured(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK_BYTES", _BLOCK)
        with patch.context() as during:
            at_call(during, "read", _DURING, server.go_away)
            with pytest.raises(StoreError, match=f"{url}/.* cannot be read"):
                trained(url, tmp_path / "sae")
        server.come_back()
        tally(ERROR)
        assert not (tmp_path / "sae").exists()
        assert torch.equal(trained(url, tmp_path / "sae").state_dict()["W_dec"], right[1])
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]
    tally(RIGHT)


def cut(folder: RemoteFolder, name: str, content: bytes, scratch: Path) -> None:
    scratch.write_bytes(content[:300])
    folder.put(scratch, name)


def remove(folder: RemoteFolder, name: str, _: bytes, __: Path) -> None:
    folder.remove([name])


@pytest.mark.parametrize(("root", "damage"), [("memory://faults", cut), ("memory://faults", remove), (_BUCKET, cut)])
def test_objects_that_are_cut_or_vanish_while_a_training_reads(
    request: pytest.FixtureRequest,
    root: str,
    damage: Callable[..., None],
    right: tuple[Activations, torch.Tensor],
    tmp_path: Path,
    tally: Tally,
) -> None:
    if root == _BUCKET:
        request.getfixturevalue("server")
    url = f"{root}/{uuid.uuid4().hex}/rows"
    captured(url)
    folder = RemoteFolder(url)
    shards = {name: folder.read(name, 0, size) for name, size in folder.sizes().items() if name.startswith("shard-")}

    def harm() -> None:
        for name, content in shards.items():
            damage(folder, name, content, tmp_path / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK_BYTES", _BLOCK)
        with patch.context() as during:
            at_call(during, "read", _DURING, harm)
            with pytest.raises(StoreError, match=f"{url}/shard-0000"):
                trained(url, tmp_path / "sae")
        tally(ERROR)
        with pytest.raises(StoreError, match=f"{url}/shard-0000"):
            Activations(url)
        tally(ERROR)
        for name, content in shards.items():
            (tmp_path / name).write_bytes(content)
            folder.put(tmp_path / name, name)
        assert torch.equal(trained(url, tmp_path / "sae").state_dict()["W_dec"], right[1])
        tally(RIGHT)


def captured_until(method: str, number: int, url: str, environment: dict[str, str]) -> None:
    """Capture over what is there, and be killed before the n-th upload, note or removal."""
    os.environ.update(environment)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, method, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        captured(url, overwrite=True)


def calls_of(url: str, environment: dict[str, str]) -> int:
    """Capture over what is there; how often the model ran."""
    os.environ.update(environment)
    calls: list[None] = []
    net = network()
    with net[0].register_forward_pre_hook(lambda *_: calls.append(None)):
        captured(url, net, overwrite=True)
    return len(calls)


@pytest.mark.parametrize("number", [2, 5])
def test_a_capture_to_a_url_is_killed(
    ground: "Ground", server: Server, number: int, right: tuple[Activations, torch.Tensor], tally: Tally
) -> None:
    url = f"{_BUCKET}/{uuid.uuid4().hex}/rows"
    ended = ground.nursery.run(captured_until, "put", number, url, server.environment)
    assert ended.how == "killed", ended
    assert MANIFEST not in RemoteFolder(url).sizes()
    assert captured(url).manifest.files == right[0].manifest.files
    assert set(RemoteFolder(url).sizes()) == {*right[0].manifest.files, MANIFEST}
    tally(RIGHT)


@pytest.mark.parametrize(("method", "number"), [("put", 2), ("put", 5), ("write", 5), ("remove", 2)])
def test_a_capture_over_a_store_at_a_url_is_killed(
    ground: "Ground", server: Server, method: str, number: int, right: tuple[Activations, torch.Tensor], tally: Tally
) -> None:
    """The old one is whole until the new one is; the next capture goes on, and leaves nothing else."""
    url = f"{_BUCKET}/{uuid.uuid4().hex}/rows"
    old = captured(url, side="input")
    ended = ground.nursery.run(captured_until, method, number, url, server.environment)
    assert ended.how == "killed", ended
    there = Activations(url)
    if there.id == old.id:
        assert torch.equal(there.rows(0, there.n), old.rows(0, old.n))
    else:
        assert method == "remove", "only the old one's files are removed, once the new one is whole"
    calls = ground.nursery.run(calls_of, url, server.environment)
    assert calls.how == "right", calls
    if method != "remove":
        assert calls.value <= 6 - max(0, number - 4), "what was whole is not made again; two are uploaded at a time"
    new = Activations(url)
    assert torch.equal(new.rows(0, new.n), right[0].rows(0, right[0].n))
    assert set(RemoteFolder(url).sizes()) == {*new.manifest.files, MANIFEST}
    tally(RIGHT)
