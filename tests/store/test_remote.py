"""Stores at a URL: fsspec's memory, and an S3 server of this process."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from unweave.capture.stage import capture
from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.topk import TopK
from unweave.store import order
from unweave.store.activations import Activations
from unweave.store.artifact import MANIFEST
from unweave.store.remote import RemoteFolder, as_place, as_url
from unweave.store.uploads import UploadedDraft
from unweave.train.stage import train
from unweave.train.training import Training

fsspec = pytest.importorskip("fsspec", reason="stores at a URL need fsspec")
IMAGES = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
NET = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU())
with torch.no_grad():
    NET[0].weight.copy_(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket on a local S3 server."""
    server = pytest.importorskip("moto.server", reason="tests of S3 need moto's server")
    pytest.importorskip("s3fs", reason="tests of S3 need s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("rows")
        yield "s3://rows"
        fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own for each test."""
    root = "memory://rows" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{root}/{uuid.uuid4().hex}/store"


def _capture(out: str | Path, images: torch.Tensor = IMAGES, **settings: object) -> Activations:
    labels = torch.arange(len(images)) % 3
    return capture(NET, images, at="1", labels=labels, out=out, batch_size=10, shard_bytes=400, **settings)  # type: ignore[call-overload,no-any-return]


def test_what_is_captured_to_a_url_is_what_a_folder_gets(url: str, tmp_path: Path) -> None:
    there, here = _capture(url), _capture(tmp_path / "store")
    assert there.manifest.files == here.manifest.files
    assert len(there.manifest.details["shards"]) > 1
    assert there.id == here.id
    assert (there.n, there.d_in, there.hook_name) == (here.n, here.d_in, here.hook_name)
    assert torch.equal(there.rows(3, 57), here.rows(3, 57))
    assert torch.equal(there.example, here.example)
    assert torch.equal(there.position, here.position)
    assert there.label is not None
    assert here.label is not None
    assert torch.equal(there.label, here.label)
    assert torch.equal(there.moments().mean, here.moments().mean)
    assert [block.tolist() for block in there.blocks(7)] == [block.tolist() for block in here.blocks(7)]
    assert url in repr(there)


@pytest.mark.parametrize("window", [1 << 30, 700, 300])
def test_batches_have_the_bits_of_those_from_a_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 64)
    _capture(url, dtype="float16")
    _capture(tmp_path / "store", dtype="float16")
    there, here = (Activations(place, window_bytes=window) for place in (url, tmp_path / "store"))
    for settings in ({"epoch": 0}, {"epoch": 1, "skip": 3}, {"epoch": 0, "shuffle": False, "skip": 2}):
        pairs = zip(there.batches(9, seed=0, **settings), here.batches(9, seed=0, **settings), strict=True)  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in pairs)


def test_training_from_a_url_has_the_bits_of_training_from_a_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 64)
    _capture(url)
    _capture(tmp_path / "store")
    settings = {"dictionary": TopK(d_sae=8, k=2), "training": Training(epochs=3, batch_size=16), "seed": 1}
    trained = [train(Activations(place, window_bytes=300), **settings) for place in (url, tmp_path / "store")]  # type: ignore[arg-type]
    assert torch.equal(trained[0].W_dec, trained[1].W_dec)


def test_nothing_is_captured_twice(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _capture(url)
    monkeypatch.setattr(RemoteFolder, "put", lambda *_: pytest.fail("it was written again"))
    assert _capture(url).manifest.created == first.manifest.created


def test_another_store_is_replaced_only_when_asked(url: str) -> None:
    first = _capture(url)
    with pytest.raises(InputError, match="made from other settings or inputs"):
        _capture(url, IMAGES[:50])
    assert Activations(url).id == first.id
    second = _capture(url, IMAGES[:50], overwrite=True)
    assert second.n == 50
    assert set(RemoteFolder(url).sizes()) == {*second.manifest.files, MANIFEST}


def test_what_a_killed_capture_left_is_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "remove", lambda *_: None)  # killed: nothing is tidied up

        seen: list[int] = []

        def interrupt(*_: object) -> None:
            seen.append(0)
            if len(seen) == 8:
                raise KeyboardInterrupt

        handle = NET.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            _capture(url)
        handle.remove()
    left = RemoteFolder(url).sizes()
    assert left
    assert MANIFEST not in left
    with pytest.raises(StoreError, match=f"is no Unweave artifact: it has no {MANIFEST}"):
        Activations(url)
    assert _capture(url).n == 100


def test_a_capture_that_fails_before_anything_is_whole_leaves_nothing(url: str) -> None:
    with pytest.raises(InputError, match="NaN or Inf"):
        _capture(url, torch.full((10, 6), torch.nan))
    assert RemoteFolder(url).sizes() == {}


def _cut_short(out: str | Path, call: int, images: torch.Tensor = IMAGES, **settings: object) -> None:
    seen: list[int] = []

    def fail(*_: object) -> None:
        seen.append(0)
        if len(seen) > call:
            raise RuntimeError("no luck")

    with NET.register_forward_pre_hook(fail), pytest.raises(InputError, match="no luck"):
        _capture(out, images, **settings)


def _counted(out: str | Path, images: torch.Tensor = IMAGES, **settings: object) -> tuple[Activations, int]:
    seen: list[int] = []
    with NET.register_forward_pre_hook(lambda *_: seen.append(0)):
        return _capture(out, images, **settings), len(seen)


def test_a_capture_that_was_cut_short_goes_on(url: str, tmp_path: Path) -> None:
    right = _capture(tmp_path / "right")
    _cut_short(url, 7)
    assert MANIFEST not in RemoteFolder(url).sizes()
    store, calls = _counted(url)
    assert calls == 10 - 6, "three shards of two batches were whole"
    assert store.manifest.files == right.manifest.files
    assert set(RemoteFolder(url).sizes()) == {*right.manifest.files, MANIFEST}


def test_an_upload_without_its_note_or_of_another_size_is_made_again(url: str, tmp_path: Path) -> None:
    right, folder = _capture(tmp_path / "right"), RemoteFolder(url)
    for damage in (1, 2):
        _cut_short(url, 9)
        (note,) = [name for name in folder.sizes() if name.startswith("unfinished/00000000" + str(2 * damage))]
        folder.remove([note]) if damage == 1 else folder.write(f"shard-0000{damage}.safetensors", b"half")
        store, calls = _counted(url)
        assert calls == 10 - 2 * damage
        assert store.manifest.files == right.manifest.files
        folder.remove([*folder.sizes()])


def test_what_another_capture_left_is_removed(url: str) -> None:
    _cut_short(url, 7)
    store, calls = _counted(url, IMAGES + 1)
    assert calls == 10
    assert set(RemoteFolder(url).sizes()) == {*store.manifest.files, MANIFEST}


def test_what_is_overwritten_stays_whole_until_the_new_one_is(url: str, tmp_path: Path) -> None:
    old = _capture(url)
    _cut_short(url, 7, IMAGES + 1, overwrite=True)
    assert torch.equal(Activations(url).rows(0, 100), _capture(tmp_path / "old").rows(0, 100))
    new, calls = _counted(url, IMAGES + 1, overwrite=True)
    assert calls == 4
    assert torch.equal(new.rows(0, 100), _capture(tmp_path / "new", IMAGES + 1).rows(0, 100))
    assert torch.equal(new.moments().mean, Activations(tmp_path / "new").moments().mean)
    assert set(RemoteFolder(url).sizes()) == {*new.manifest.files, MANIFEST}
    with pytest.raises(StoreError, match=r"shard-0000.* does not exist \(any more\)"):
        old.rows(0, 100)


def test_no_store_at_a_url_has_names_that_another_had_there(url: str) -> None:
    names: set[str] = set()
    for _ in range(4):
        files = set(_capture(url, overwrite=True).manifest.files)
        assert not names & files
        names |= files


def test_a_writer_that_is_killed_once_the_manifest_is_exchanged(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _capture(url)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "remove", lambda *_: None)
        _capture(url, IMAGES + 1, overwrite=True)
    assert set(RemoteFolder(url).sizes()) > set(old.manifest.files)
    new = _capture(url, IMAGES + 1)
    assert set(RemoteFolder(url).sizes()) == {*new.manifest.files, MANIFEST}


def test_a_store_that_replaced_another_can_be_copied_into_a_folder(url: str, tmp_path: Path) -> None:
    _capture(url)
    store, folder = _capture(url, IMAGES + 1, overwrite=True), RemoteFolder(url)
    for name, size in folder.sizes().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(folder.read(name, 0, size))
    copied = Activations(tmp_path)
    assert torch.equal(copied.rows(0, 100), store.rows(0, 100))
    assert torch.equal(copied.moments().mean, store.moments().mean)
    batches = zip(copied.batches(9, seed=0, epoch=0), store.batches(9, seed=0, epoch=0), strict=True)
    assert all(torch.equal(a, b) for a, b in batches)


def test_a_writer_whose_files_others_remove_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = UploadedDraft.files

    def meanwhile(draft: UploadedDraft) -> object:
        found = files(draft)
        RemoteFolder(url).remove(["shard-00002.safetensors"])
        return found

    monkeypatch.setattr(UploadedDraft, "files", meanwhile)
    with pytest.raises(StoreError, match=r"shard-00002\.safetensors was removed or replaced while it was captured"):
        _capture(url)
    assert MANIFEST not in RemoteFolder(url).sizes()


def test_what_is_no_artifact_is_left_alone(url: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.pdf").write_bytes(b"years")
    RemoteFolder(url).put(tmp_path / "thesis.pdf", "thesis.pdf")
    with pytest.raises(InputError, match=r"holds 'thesis\.pdf' and is no Unweave artifact"):
        _capture(url, overwrite=True)
    assert set(RemoteFolder(url).sizes()) == {"thesis.pdf"}


def test_a_missing_and_a_cut_object_are_named(url: str, tmp_path: Path) -> None:
    store = _capture(url)
    folder = RemoteFolder(url)
    name = "shard-00001.safetensors"
    (tmp_path / name).write_bytes(folder.read(name, 0, 30))
    folder.put(tmp_path / name, name)
    with pytest.raises(StoreError, match=rf"{url}/{name} has 30 bytes where its manifest says"):
        Activations(url)
    with pytest.raises(StoreError, match=name):
        store.rows(0, store.n)
    folder.remove([name])
    with pytest.raises(StoreError, match=rf"{url}/{name} is missing"):
        Activations(url)
    with pytest.raises(StoreError, match=name):
        list(store.batches(5, seed=0, epoch=0))


def test_damage_to_a_header_or_a_manifest_is_seen(url: str, tmp_path: Path) -> None:
    _capture(url)
    folder = RemoteFolder(url)
    sizes = folder.sizes()
    for name, text, said in (
        ("shard-00000.safetensors", b"\xff" * sizes["shard-00000.safetensors"], "header"),
        ("moments.safetensors", b"\xff" * sizes["moments.safetensors"], "checksum"),
        (MANIFEST, b"{", "not readable JSON"),
    ):
        (tmp_path / "file").write_bytes(text)
        folder.put(tmp_path / "file", name)
        with pytest.raises(StoreError, match=said):
            _use(url)


def _use(url: str) -> None:
    store = Activations(url)
    store.moments()
    list(store.blocks(5))


def test_several_hook_points_are_stores_below_the_url(url: str) -> None:
    stores = capture(NET, IMAGES, at=["0", "1"], out=url)
    assert {name: store.place for name, store in stores.items()} == {"0": f"{url}/0", "1": f"{url}/1"}


def test_a_bucket_that_is_not_there_is_one_error(bucket: str) -> None:
    for place in (f"{bucket}-of-nobody/store", f"{bucket}-of-nobody"):
        with pytest.raises(StoreError, match=rf"{place}.* does not exist"):
            Activations(place)
    with pytest.raises(StoreError, match="does not exist"):
        _capture(f"{bucket}-of-nobody/store")


def test_no_credentials_are_one_error(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StoreError, match=f"{bucket}/store cannot be read .*are there credentials"):
        Activations(f"{bucket}/store")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_url_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InputError, match="nowhere://a/b"):
        Activations("nowhere://a/b")


def test_a_url_of_a_file_is_a_folder(tmp_path: Path) -> None:
    store = _capture(f"file://{tmp_path}/store")
    assert store.folder == tmp_path / "store"
    assert Activations(f"file://{tmp_path}/store").n == 100
    assert (as_url(tmp_path), as_place(str(tmp_path))) == (None, tmp_path)


def test_a_store_at_a_url_has_no_folder(url: str) -> None:
    with pytest.raises(InputError, match="is no folder on this machine"):
        _ = _capture(url).folder
