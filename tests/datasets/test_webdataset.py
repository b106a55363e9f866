"""Tar files of images: indexed, streamed, and named when they are damaged."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from unweave.core.errors import InputError
from unweave.datasets.webdataset import WebDataset, expand


def shard(path, keys, *, label="cls", broken=()):
    with tarfile.open(path, "w") as archive:
        for key in keys:
            file = io.BytesIO()
            Image.new("RGB", (9, 7), (key, key, key)).save(file, "PNG")
            content = b"broken" if key in broken else file.getvalue()
            said = str(key % 2).encode() if label == "cls" else json.dumps({"kind": ["even", "odd"][key % 2]}).encode()
            for suffix, data in (("png", content), (label, said), ("txt", b"words")):
                member = tarfile.TarInfo(f"deep/{key:04}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    for number in range(2):
        shard(tmp_path / f"s-{number:02}.tar", range(number * 10, number * 10 + 10))
    return tmp_path


def shades(data):
    return data.pixels(torch.arange(len(data)))[:, 0, 0, 0].tolist()


def test_every_image_is_found_with_its_label(shards):
    config = WebDataset(shards="s-{00..01}.tar", size=4)
    parts = [config.load(split, shards) for split in ("train", "test")]
    assert sorted(shades(parts[0]) + shades(parts[1])) == list(range(20))
    for part in parts:
        assert part.labels.tolist() == [shade % 2 for shade in shades(part)]
    assert parts[0].class_names == ["0", "1"]


def test_labels_of_json_and_shards_of_their_own_for_test(tmp_path):
    shard(tmp_path / "a.tar", range(4), label="json")
    shard(tmp_path / "b.tar", range(4, 6), label="json")
    config = WebDataset(shards="a.tar", test_shards="b.tar", label="json:kind", size=4)
    assert shades(config.load("train", tmp_path)) == [0, 1, 2, 3]
    assert config.load("test", tmp_path).class_names == ["even", "odd"]


def test_a_stream_gives_the_same_images_in_order(shards):
    config = WebDataset(shards="s-*.tar", size=4, streaming=True, class_names=("even", "odd"))
    data = config.load("train", shards)
    batches = list(data.batches(6))
    assert [round(float(shade) * 255) for batch in batches for shade in batch.images[:, 0, 0, 0]] == list(range(20))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1] * 10
    assert torch.cat([batch.example for batch in batches]).tolist() == list(range(20))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_truncated_shard_is_named(shards, streaming):
    path = shards / "s-01.tar"
    path.write_bytes(path.read_bytes()[:7000])
    config = WebDataset(shards="s-{00..01}.tar", size=4, streaming=streaming)
    with pytest.raises(InputError, match=r"s-01\.tar is (missing, )?truncated"):
        list(config.load("train", shards).batches(4))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_image_is_named_or_left_out(tmp_path, streaming):
    shard(tmp_path / "a.tar", range(6), broken=(3,))
    options = {"shards": "a.tar", "test_shards": "a.tar", "size": 4, "streaming": streaming}
    with pytest.raises(InputError, match=r"a\.tar: deep/0003\.png"):
        list(WebDataset(**options).load("train", tmp_path).batches(4))
    if streaming:
        left = WebDataset(**options, on_broken="skip").load("train", tmp_path)
    else:
        with pytest.warns(UserWarning, match="left out"):
            left = WebDataset(**options, on_broken="skip").load("train", tmp_path)
    assert sum(len(batch.labels) for batch in left.batches(4)) == 5


def test_patterns():
    assert expand("/x/{08..10}.tar") == ["/x/08.tar", "/x/09.tar", "/x/10.tar"]
    assert expand("/x/{a,b}-{0..1}.tar") == ["/x/a-0.tar", "/x/a-1.tar", "/x/b-0.tar", "/x/b-1.tar"]
    assert expand("s3://bucket/{0..1}.tar") == ["s3://bucket/0.tar", "s3://bucket/1.tar"]
    for pattern in ("/nowhere/*.tar", "/x/{5..2}.tar", "/x/{0..9999999}.tar"):
        with pytest.raises(InputError, match="stands for"):
            expand(pattern)
    with pytest.raises(InputError, match="does not exist"):
        WebDataset(shards="/nowhere/{0..1}.tar").load("train")
