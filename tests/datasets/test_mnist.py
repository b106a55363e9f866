"""MNIST: finding, checking, parsing and fetching the files; the real ones where they are at hand."""

import gzip
import hashlib
import shutil
import struct

import numpy as np
import pytest
import torch

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.datasets import mnist
from unweave.datasets.base import DatasetConfig
from unweave.datasets.mnist import FILES, Mnist, fetch, parse_idx

NOBODY = "http://127.0.0.1:9/"
ALL_FILES = [name for names in FILES.values() for name in names]


def idx(values):
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def small_files():
    """Stand-ins: as the originals, but 6 and 4 images of 3×2 pixels."""
    files = {}
    for (images, labels), n in zip(FILES.values(), (6, 4), strict=True):
        files[images] = idx(np.arange(n * 6).reshape(n, 3, 2))
        files[labels] = idx(np.arange(n))
    return files


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The stand-ins with their own checksums, no folder named, an empty cache, and no mirror that answers."""
    files = small_files()
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(mnist, "MD5", sums)
    monkeypatch.setattr(mnist, "MIRRORS", (NOBODY,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("UNWEAVE_DATA", raising=False)
    return files


def put(folder, files, *, compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def test_it_is_registered_and_survives_json():
    assert DatasetConfig.registry["mnist"] is Mnist
    assert from_json(DatasetConfig, to_json(Mnist(limit=5))) == Mnist(limit=5)
    assert Mnist().limit is None


def test_idx_gives_the_values_in_their_shape():
    values = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(idx(values), dims=3, where="x"), values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing, not 00000803"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00000d03"),
        (idx(np.zeros((2, 2))), "begins with 00000802"),
        (idx(np.zeros((2, 2, 2)))[:9], "header is cut off after 9 bytes"),
        (idx(np.zeros((2, 2, 2)))[:-1], "promises 2 x 2 x 2 values, but 7 follow"),
        (idx(np.zeros((2, 2, 2))) + b"x", "but 9 follow"),
    ],
)
def test_what_is_no_idx_file_is_refused(data, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_idx(data, dims=3, where="some/file")
    assert str(caught.value).startswith("some/file: ")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_files_are_found(small, tmp_path, monkeypatch, compressed, below):
    put(tmp_path / "here" / below, small, compressed=compressed)
    test = Mnist().load("test", tmp_path / "here")
    assert test.shape == (1, 3, 2)
    assert torch.equal(test.pixels(torch.arange(4)).flatten(), torch.arange(24, dtype=torch.uint8))
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert test.class_names == list("0123456789")
    monkeypatch.setenv("UNWEAVE_DATA", str(tmp_path / "here"))
    assert Mnist().load("test").id == test.id


def test_the_argument_goes_before_the_environment(small, tmp_path, monkeypatch):
    put(tmp_path / "here", small)
    monkeypatch.setenv("UNWEAVE_DATA", str(tmp_path / "nowhere"))
    assert len(Mnist().load("train", tmp_path / "here")) == 6


@pytest.mark.parametrize(("limit", "n"), [(1, 1), (5, 5), (100, 6)])
def test_limit_takes_the_first(small, tmp_path, limit, n):
    put(tmp_path, small)
    train = Mnist(limit=limit).load("train", tmp_path)
    assert train.labels.tolist() == list(range(n))
    assert len(train.pixels(torch.arange(n))) == n


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InputError, match=f"limit is {limit}"):
        Mnist(limit=limit)


def test_a_given_folder_without_the_files_is_an_error_and_no_download(small, tmp_path, mirror, monkeypatch):
    one = mirror({})
    monkeypatch.setattr(mnist, "MIRRORS", (one.url,))
    with pytest.raises(InputError) as caught:
        Mnist().load("train", tmp_path)
    assert one.asked == []
    for part in (*FILES["train"], str(tmp_path), str(tmp_path / "mnist"), "--data-dir"):
        assert part in str(caught.value)


def test_a_given_folder_that_is_none_is_an_error(small, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"--data-dir is .*nowhere, which is not a folder"):
        Mnist().load("train", tmp_path / "nowhere")
    monkeypatch.setenv("UNWEAVE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"UNWEAVE_DATA is .*nowhere, which is not a folder"):
        Mnist().load("train")


def test_half_of_the_files_in_unweave_data_is_an_error(small, tmp_path, monkeypatch):
    del small[FILES["train"][1]]
    put(tmp_path / "data", small)
    monkeypatch.setenv("UNWEAVE_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte .* not found"):
        Mnist().load("train")


def test_unweave_data_with_other_data_only_goes_on_to_the_cache(small, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("UNWEAVE_DATA", str(tmp_path / "data"))
    put(tmp_path / "cache" / "unweave" / "mnist", small)
    assert len(Mnist().load("train")) == 6


@pytest.mark.parametrize("how", ["flipped", "truncated", "no gzip"])
def test_a_damaged_file_is_named(small, tmp_path, how):
    put(tmp_path, small, compressed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 255
    file.write_bytes(data[:-12] if how == "truncated" else b"<html>" if how == "no gzip" else data)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is (damaged|not the original)"):
        Mnist().load("train", tmp_path)


def test_a_download_fills_the_cache_and_is_not_repeated(small, tmp_path, mirror, monkeypatch):
    one = mirror({f"{name}.gz": gzip.compress(data) for name, data in small.items()}, cuts=[30])
    monkeypatch.setattr(mnist, "MIRRORS", (NOBODY, one.url))
    first = Mnist().load("train")
    assert first.labels.tolist() == list(range(6))
    names = sorted(f"{name}.gz" for name in FILES["train"])
    assert sorted({name for name, _ in one.asked}) == names
    assert sorted(path.name for path in (tmp_path / "cache" / "unweave" / "mnist").iterdir()) == names
    monkeypatch.setattr(mnist, "MIRRORS", ())
    assert Mnist().load("train").id == first.id


def test_fetch_passes_over_a_mirror_with_another_file(small, tmp_path, mirror):
    name = FILES["test"][1]
    bad, good = mirror({f"{name}.gz": gzip.compress(b"other")}), mirror({f"{name}.gz": gzip.compress(small[name])})
    file = fetch(name, tmp_path, mirrors=[bad.url, good.url], md5=mnist.MD5[name])
    assert file == tmp_path / f"{name}.gz"
    assert gzip.decompress(file.read_bytes()) == small[name]


def test_offline_is_one_error_that_says_what_to_put_where(small, tmp_path):
    with pytest.raises(InputError) as caught:
        Mnist().load("train")
    for part in (*ALL_FILES, str(tmp_path / "cache" / "unweave" / "mnist"), "--data-dir", "UNWEAVE_DATA", "refused"):
        assert part in str(caught.value)


def test_real_mnist(data_dir):
    train, test = Mnist().load("train", data_dir), Mnist().load("test", data_dir)
    assert len(train) == 60_000
    assert len(test) == 10_000
    assert train.shape == test.shape == (1, 28, 28)
    assert torch.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    mean = train.pixels(torch.arange(60_000)).sum(dtype=torch.int64).item() / (60_000 * 784 * 255)
    assert mean == pytest.approx(0.1307, abs=1e-4)


def test_real_files_with_one_flipped_bit_are_refused(data_dir, tmp_path):
    for name in FILES["test"]:
        shutil.copyfile(data_dir / "mnist" / f"{name}.gz", tmp_path / f"{name}.gz")
    images = tmp_path / f"{FILES['test'][0]}.gz"
    data = bytearray(gzip.decompress(images.read_bytes()))
    data[1_000_000] ^= 1
    images.chmod(0o644)
    images.write_bytes(gzip.compress(data, 1))
    with pytest.raises(InputError, match="not 2646ac647ad5339dbf082846283269ea"):
        Mnist().load("test", tmp_path)
