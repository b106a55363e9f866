"""A store says what it was captured from, and it is found again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.datasets.base import MemoryTexts, TextDataset
from unweave.datasets.digits import Digits
from unweave.datasets.image_folder import ImageFolder
from unweave.datasets.text_file import TextFile
from unweave.models.mlp import MLP
from unweave.models.pretrained import Pretrained
from unweave.recipes.sources import Source, build_model, captured_dataset, open_data, source_of

tiny_networks = pytest.importorskip("tiny_networks")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Images of several sizes in two classes."""
    for number in range(6):
        path = tmp_path / "photos" / ("a" if number % 2 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (30 + 7 * number, 61 - 5 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_images_are_read_at_the_size_that_the_network_asks_for(photos, tmp_path):
    model = Pretrained(name=str(tiny_networks.write_network("vit", tmp_path / "vit")))
    assert open_data(ImageFolder(), model, "train", photos).shape == (3, 32, 32)
    assert open_data(ImageFolder(size=20), model, "train", photos).shape == (3, 20, 20)
    assert open_data(ImageFolder(), MLP(), "train", photos).shape == (3, 64, 64)


def test_a_store_of_images_leads_back_to_them(photos, tmp_path, monkeypatch):
    model = Pretrained(name=str(tiny_networks.write_network("dinov2-registers", tmp_path / "dinov2")))
    monkeypatch.chdir(tmp_path)
    source = Source(data=ImageFolder(test_share=0.5), data_dir=Path("photos"), model=model)
    images = source.dataset()
    store = capture(
        source.build(images),
        images,
        at="encoder.layer.1",
        rows="position",
        out=tmp_path / "rows",
        source=source.as_json(),
    )
    assert (store.n, store.d_in) == (len(images) * (1 + 4 + 16), 16)
    monkeypatch.chdir(tmp_path.parent)
    assert source_of(store).model == model
    assert captured_dataset(store).id == images.id
    Image.new("RGB", (9, 9)).save(photos / "a" / "9.png")
    with pytest.raises(InputError, match="no longer those that were captured"):
        captured_dataset(store)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_real_tokens_of_texts_make_rows(tmp_path, name):
    at = {"bert": "bert.encoder.layer.0", "gpt2": "transformer.h.0"}[name]
    (tmp_path / "texts.txt").write_text("the cat sat\na dog\na bad film\nit is good and not bad\n")
    model = Pretrained(name=str(tiny_networks.write_network(name, tmp_path / name)))
    source = Source(data=TextFile(test_share=0.5), data_dir=tmp_path / "texts.txt", model=model)
    data = source.dataset()
    assert isinstance(data, TextDataset)
    net = source.build(data)
    tokens = net.tokens(data.texts)
    store = capture(net, data, at=at, rows="position", batch_size=3, source=source.as_json())
    assert store.n == sum(map(len, tokens))
    assert store.position.tolist() == [place for text in tokens for place in range(len(text))]
    assert captured_dataset(store).texts == data.texts


def test_data_and_model_have_to_fit(tmp_path):
    text = Pretrained(name=str(tiny_networks.write_network("bert", tmp_path / "bert")))
    with pytest.raises(InputError, match="the data are texts, and the model mlp reads images"):
        build_model(MLP(), MemoryTexts(["a"]), 0)
    with pytest.raises(InputError, match="the data are images, and the model reads texts"):
        build_model(text, Digits().load("train"), 0)
    with pytest.raises(InputError, match="no tokenizer"):
        capture(torch.nn.Linear(2, 2), MemoryTexts(["a"]), at="")
