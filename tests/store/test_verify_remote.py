"""Stores at a URL are compared with what was written, as folders are."""

import json
import uuid

import pytest
import torch
from torch import nn

from unweave.capture.stage import capture
from unweave.core.errors import InputError
from unweave.store.artifact import MANIFEST
from unweave.store.verify import verify

fsspec = pytest.importorskip("fsspec", reason="stores at a URL need fsspec")
IMAGES = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def url() -> str:
    """Two stores of several shards, one below the other's neighbour."""
    root = f"memory://verified/{uuid.uuid4().hex}"
    for name in ("one", "deep/two"):
        capture(nn.ReLU(), IMAGES, at="", out=f"{root}/{name}", batch_size=10, shard_bytes=400)
    return root


def _change(url: str, name: str, content: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", content)


def _content(url: str, name: str) -> bytes:
    return bytes(fsspec.filesystem("memory").cat_file(f"{url}/{name}"))


def test_every_store_below_a_url_is_read_through(url: str) -> None:
    found = verify(url)
    named = json.loads(_content(url, f"one/{MANIFEST}"))["files"]
    assert (found.artifacts, found.damaged, found.left) == (2, [], [])
    assert found.files == 2 * (len(named) + 1)
    assert verify(f"{url}/one/").artifacts == 1


def test_every_damage_there_is_a_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unweave.store.verify_remote._PIECE", 100)  # a checksum goes over pieces
    monkeypatch.setattr("unweave.store.verify_remote._AT_ONCE", 2)
    names = sorted(json.loads(_content(url, f"one/{MANIFEST}"))["files"])
    flipped = bytearray(_content(url, f"one/{names[-1]}"))
    flipped[-1] ^= 1
    _change(url, f"one/{names[-1]}", bytes(flipped))
    _change(url, f"one/{names[-2]}", b"short")
    fsspec.filesystem("memory").rm_file(f"{url}/one/{names[-3]}")
    _change(url, f"deep/two/{MANIFEST}", b"{")
    said = sorted(verify(url).damaged)
    wrong = [f"deep/two/{MANIFEST}", *(f"one/{name}" for name in names[-3:])]
    assert [line.partition(" ")[0] for line in said] == [f"{url}/{name}" for name in sorted(wrong)]
    assert any("its checksum differs" in line for line in said)
    assert any("is missing" in line for line in said)


def test_a_capture_that_has_not_ended_is_named(url: str) -> None:
    _change(url, "cut/unfinished/capture", b"x")
    found = verify(url)
    assert (found.damaged, found.left) == ([], [f"{url}/cut"])


def test_where_there_is_no_store_it_says_so() -> None:
    with pytest.raises(InputError, match="no store of Unweave's at memory://verified/nothing"):
        verify("memory://verified/nothing")
