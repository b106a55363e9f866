"""Every loader of foreign files on files that are damaged, hostile or nonsense.

Whatever lies there, `recognises` says yes or no, and `read` gives a dictionary that works or an `InputError` (of which
`StoreError` is one): nothing else is raised, nothing hangs, nothing runs, and no size is believed before it is checked.
Each test takes the formats from the registry: a new one must bring a seed.
"""

import io
import json
import os
import resource
import signal
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from foreign_seeds import Files, joined, seeds, split, torch_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.formats.base import formats, named
from unweave.formats.places import load

EXAMPLES = int(os.environ.get("UNWEAVE_FUZZ", "15"))  # for each format and kind of damage
SECONDS = 30  # far more than any of them takes: only a hang is cut off
MEGABYTES = 256  # far less than any of the sizes that are claimed

FORMATS = sorted(formats())
SEEDS = cache(seeds)
fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


class HungError(Exception):
    """A loader did not come back."""


@contextmanager
def bounded() -> Iterator[None]:
    """Time and memory are bounded."""

    def cut(*_: object) -> None:
        raise HungError

    before, handler = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, cut)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"reading took {grown:.0f} MB"


def attempt(name: str, folder: Path, files: Files) -> None:
    """Put files into a folder and read them in every way; a dictionary that comes of it encodes rows."""
    for path, content in files.items():
        (folder / path).write_bytes(content)
    attempt_at(name, folder)
    for path in files:
        attempt_at(name, folder / path)


def attempt_at(name: str, place: Path) -> None:
    with bounded():
        for one in formats().values():
            assert one.recognises(place) in {True, False}
        for read in (named(name).read, load):
            with suppress(InputError):
                dictionary = read(place)
                rows = torch.ones(2, dictionary.d_in)
                assert dictionary(rows).shape == rows.shape


def changed(name: str, data: st.DataObject) -> tuple[Files, str]:
    """Files of a format, and the one of them that is to be changed."""
    files = dict(SEEDS()[name][data.draw(st.integers(0, len(SEEDS()[name]) - 1))])
    return files, data.draw(st.sampled_from(sorted(files)))


def damage(content: bytes, data: st.DataObject) -> bytes:
    """Bytes that were cut, turned, put in, doubled or swapped."""
    where = data.draw(st.integers(0, len(content)))
    how = data.draw(st.sampled_from(["cut", "turn", "put in", "leave out", "append"]))
    if how == "cut":
        return content[:where]
    if how == "turn":
        turned = bytearray(content)
        for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=8)):
            if content:
                turned[place] ^= data.draw(st.integers(1, 255))
        return bytes(turned)
    if how == "leave out":
        return content[:where] + content[where + data.draw(st.integers(1, 64)) :]
    more = data.draw(st.binary(min_size=1, max_size=64))
    return content + more if how == "append" else content[:where] + more + content[where:]


NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, True])
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        NUMBERS,
        st.text(max_size=8),
        st.sampled_from(["topk", "relu", "none", "TopK", "layer_norm"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)


def other_json(found: Any, data: st.DataObject) -> Any:
    """The same with values exchanged, left out or added, somewhere."""
    if not isinstance(found, dict) or not found or data.draw(st.integers(0, 9)) == 0:
        return data.draw(VALUES)
    key = data.draw(st.sampled_from([*sorted(found), "architecture", "dtype"]))
    how = data.draw(st.sampled_from(["exchange", "leave out", "within"]))
    if how == "leave out":
        return {name: value for name, value in found.items() if name != key}
    value = other_json(found.get(key), data) if how == "within" else data.draw(VALUES)
    return {**found, key: value}


def other_tensor(tensor: torch.Tensor, data: st.DataObject) -> Any:
    """Another shape, another type, or other values."""
    return data.draw(
        st.sampled_from(
            [
                tensor.flatten(),
                tensor[..., None],
                tensor.new_zeros(()),
                tensor.new_zeros((0, 4)),
                tensor.new_zeros((4, 0)),
                tensor.double() * float("nan"),
                tensor.double() * 1e300,
                tensor.float() - float("inf"),
                tensor.to(torch.int64),
                tensor.to(torch.bool),
                tensor.to(torch.complex64),
                tensor.half(),
                tensor.new_zeros(1).expand(2**20, 2**20),
                tensor.T if tensor.ndim == 2 else tensor,
                "a word",
                None,
                [tensor],
                10**30,
            ]
        )
    )


def test_every_format_has_a_seed_that_is_read(tmp_path: Path) -> None:
    assert sorted(SEEDS()) == FORMATS
    for name in FORMATS:
        for number, files in enumerate(SEEDS()[name]):
            folder = tmp_path / f"{name}-{number}"
            folder.mkdir()
            for path, content in files.items():
                (folder / path).write_bytes(content)
            assert [other for other, one in formats().items() if one.recognises(folder)] == [name]
            assert (load(folder).d_in, load(folder).d_sae) == (3, 5)


@pytest.mark.parametrize("name", FORMATS)
@fuzzed
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject) -> None:
    files, path = changed(name, data)
    with TemporaryDirectory() as folder:
        attempt(name, Path(folder), {**files, path: damage(files[path], data)})


@pytest.mark.parametrize("name", FORMATS)
@fuzzed
@given(data=st.data())
def test_damaged_members_of_an_archive(name: str, data: st.DataObject) -> None:
    """As above, with checksums that are right, so that the damage is seen by whoever reads the member."""
    files, path = changed(name, data)
    before, members = split(files[path])
    if not members:
        return
    member = data.draw(st.sampled_from(sorted(members)))
    for _ in range(data.draw(st.integers(1, 3))):
        members[member] = damage(members[member], data)
    with TemporaryDirectory() as folder:
        attempt(name, Path(folder), {**files, path: joined(before, members)})


@pytest.mark.parametrize("name", FORMATS)
@fuzzed
@given(data=st.data())
def test_other_json(name: str, data: st.DataObject) -> None:
    files, path = changed(name, data)
    line, newline, rest = files[path].partition(b"\n") if files[path].startswith(b"{") else (b"", b"", b"")
    if path.endswith(".json"):
        line, newline, rest = files[path], b"", b""
    if not line:
        return
    written = json.dumps(other_json(json.loads(line), data)).encode()
    with TemporaryDirectory() as folder:
        attempt(name, Path(folder), {**files, path: written + newline + rest})


@pytest.mark.parametrize("name", FORMATS)
@fuzzed
@given(data=st.data())
def test_other_tensors(name: str, data: st.DataObject) -> None:
    files, path = changed(name, data)
    if path.endswith(".safetensors"):
        content = _other_safetensors(files[path], data)
    else:
        before, members = split(files[path])
        program = next((content for member, content in members.items() if member.endswith("data.pkl")), b"")
        if not program or b"vit_prisma" in program or b"overcomplete" in program:
            return  # what they hold is exchanged within their pickles, above; numpy's archives have none
        start = len(before)
        tensors = torch.load(io.BytesIO(files[path][start:]), weights_only=True)
        key = data.draw(st.sampled_from(sorted(tensors)))
        if isinstance(tensors[key], torch.Tensor):
            tensors[key] = other_tensor(tensors[key], data)
        else:
            del tensors[key]
        content = before + torch_bytes(tensors)
    with TemporaryDirectory() as folder:
        attempt(name, Path(folder), {**files, path: content})


def _other_safetensors(content: bytes, data: st.DataObject) -> bytes:
    """The header with another claim, over the same bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    key = data.draw(st.sampled_from(sorted(header)))
    claim = data.draw(
        st.sampled_from(
            [
                {"shape": [2**40, 2**20]},
                {"shape": [2**62, 4]},
                {"shape": [0, 2**62]},
                {"shape": []},
                {"shape": [-1, 4]},
                {"dtype": "I64"},
                {"dtype": "BF16"},
                {"dtype": "X"},
                {"data_offsets": [0, 2**62]},
                {"data_offsets": [8, 0]},
                {"data_offsets": [0, 4]},
                None,
            ]
        )
    )
    header = {name: value for name, value in header.items() if name != key} if claim is None else header
    if claim is not None:
        header[key] = {**header[key], **claim} if isinstance(header[key], dict) else claim
    written = json.dumps(header).encode()
    size = data.draw(st.sampled_from([len(written), 2**62, 0, len(written) + 1]))
    return struct.pack("<Q", size) + written + content[8 + length :]


@pytest.mark.parametrize("name", FORMATS)
def test_code_in_pickles_is_never_run(name: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'it ran'}",))

    for number, files in enumerate(SEEDS()[name]):
        for path, content in files.items():
            before, members = split(content)
            bare = b"cposix\nsystem\n(S'touch " + str(tmp_path / "it ran").encode() + b"'\ntR."
            program = next((member for member in members if member.endswith("data.pkl")), "data.pkl")
            for hostile in (
                torch_bytes(Hostile()),
                torch_bytes({"state_dict": Hostile(), "cfg": Hostile(), "encoder.weight": Hostile()}),
                before + torch_bytes({"W_dec": Hostile()}),
                bare,
                before + bare,
                joined(before, {**members, program: bare}),
                joined(before, {**members, program: b"\x80\x02" + bare}),
            ):
                folder = tmp_path / f"{number}"
                folder.mkdir(exist_ok=True)
                attempt(name, folder, {**files, path: hostile})
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_archives_that_would_grow(name: str, tmp_path: Path) -> None:
    bomb = bytes(1 << 28)
    for files in SEEDS()[name][:1]:
        for path, content in files.items():
            before, members = split(content)
            if members:
                tensor = next(member for member in members if member.endswith(("data/0", ".npy")))
                grown = joined(before, {**members, tensor: bomb}, zipfile.ZIP_DEFLATED)
                attempt(name, tmp_path, {**files, path: grown})


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("what", ["folder", "empty", "link to nothing", "link in a ring", "pipe", "unreadable"])
def test_other_things_than_files(what: str, name: str, tmp_path: Path) -> None:
    files = SEEDS()[name][0]
    for path in files:
        folder = tmp_path / path.replace(".", "-")
        folder.mkdir()
        for other, content in files.items():
            if other != path:
                (folder / other).write_bytes(content)
        place = folder / path
        if what == "folder":
            place.mkdir()
        elif what == "pipe":
            os.mkfifo(place)
        elif what.startswith("link"):
            place.symlink_to(place if what == "link in a ring" else folder / "nothing")
        else:
            place.write_bytes(b"")
            place.chmod(0o000 if what == "unreadable" else 0o644)
        attempt_at(name, folder)
        attempt_at(name, place)
        attempt_at(name, folder / "nowhere")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "NaN", "null", "[]", '{"d_in": 1e999}', "\ud800", "\x00"]
)
def test_json_that_is_no_configuration(text: str, name: str, tmp_path: Path) -> None:
    written = text.encode("utf-8", "surrogatepass")
    for path, content in SEEDS()[name][0].items():
        if path.endswith(".json"):
            attempt(name, tmp_path, {**SEEDS()[name][0], path: written})
        elif content.startswith(b"{"):
            attempt(name, tmp_path, {path: written + b"\n" + content.partition(b"\n")[2]})
