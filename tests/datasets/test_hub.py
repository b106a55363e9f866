"""Data sets in the formats of the hub, from folders on this machine."""

import numpy as np
import pytest
import torch
from PIL import Image

from unweave.core.errors import InputError
from unweave.datasets import hub
from unweave.datasets.base import TextDataset
from unweave.datasets.hub import Hub

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images as parquet and as save_to_disk leaves them, and texts."""
    root = tmp_path_factory.mktemp("hub")
    pictures = [Image.fromarray(np.full((5 + n, 8, 3), n, np.uint8)) for n in range(8)]
    kinds = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    images = datasets.Dataset.from_dict({"picture": pictures, "label": [n % 2 for n in range(8)]}, features=kinds)
    (root / "parquet").mkdir()
    images.to_parquet(root / "parquet" / "train-00000-of-00001.parquet")
    images.select(range(2)).to_parquet(root / "parquet" / "test-00000-of-00001.parquet")
    datasets.DatasetDict(train=images, validation=images.select(range(3))).save_to_disk(root / "disk")
    (root / "texts").mkdir()
    texts = datasets.Dataset.from_dict(
        {"id": [1, 2, 3], "text": ["good film", " ", "bad film"], "label": ["p", "p", "n"]}
    )
    texts.to_parquet(root / "texts" / "train-00000-of-00001.parquet")
    return root


def shades(data):
    return data.pixels(torch.arange(len(data)))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_images_and_their_classes(places, form):
    config = Hub(name=form, size=4)
    train, test = (config.load(split, places) for split in ("train", "test"))
    assert shades(train) == list(range(8))
    assert train.labels.tolist() == [0, 1] * 4
    assert train.class_names == ["even", "odd"]
    assert len(test) == (2 if form == "parquet" else 3)
    assert train.id == config.load("train", places).id != test.id


def test_a_stream_gives_the_same(places):
    data = Hub(name=str(places / "parquet"), size=4, streaming=True, most=5).load("train")
    batches = list(data.batches(2))
    assert [round(float(one) * 255) for batch in batches for one in batch.images[:, 0, 0, 0]] == [0, 1, 2, 3, 4]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 0, 1, 0]


def test_texts_and_their_classes(places):
    data = Hub(name="texts").load("train", places)
    assert isinstance(data, TextDataset)
    assert list(data.texts) == ["good film", "bad film"]
    assert [data.class_names[label] for label in data.labels] == ["p", "n"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Hub(name="parquet", image="pictur"), "did you mean 'picture'"),
        (Hub(name="parquet", label="x"), "no column 'x'"),
        (Hub(name="parquet", train_split="dev"), "no split 'dev'; say --data.train-split, one of: t"),
        (Hub(name="texts", text="words"), "no column 'words'"),
    ],
)
def test_what_is_not_there_is_named(places, config, message):
    with pytest.raises(InputError, match=message):
        config.load("train", places)


def test_a_missing_data_set_is_explained(monkeypatch):
    monkeypatch.setattr(hub, "switched_off", lambda: False)
    monkeypatch.setattr(hub, "answers", lambda *_: False)
    with pytest.raises(InputError, match="hf download some/data --repo-type dataset"):
        Hub(name="some/data").load("train")
