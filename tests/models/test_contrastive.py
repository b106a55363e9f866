"""Fine-tuning without labels: losses by hand, views by property, and a network that learns, resumes and repeats."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import normalize

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.datasets.base import MemoryImages
from unweave.models import resnet18
from unweave.models.base import ModelConfig
from unweave.models.classifier import load_model
from unweave.models.contrastive import Contrastive, Views, fine_tune, nt_xent, published_losses, turned
from unweave.models.embedding import start_embedding
from unweave.models.resnet18 import ResNet18, find_weights


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (16, 3, 4, 4), generator=generator).byte()
    pixels = colours.repeat_interleave(8, 2).repeat_interleave(8, 3)  # easy to tell apart
    return MemoryImages(pixels, torch.zeros(16, dtype=torch.int64), ["image"])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and no cache of it."""
    monkeypatch.setattr(resnet18, "_answers", lambda *_: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


def test_the_network_gives_512_numbers_and_their_unit_length(offline):
    net = ResNet18().build((3, 32, 32), 1, torch.Generator().manual_seed(0))
    x = torch.rand(2, 3, 32, 32)
    assert net.raw(x).shape == (2, 512)
    assert (net.raw(x) >= 0).all(), "it ends in a ReLU"
    torch.testing.assert_close(net(x), normalize(net.raw(x), dim=1))
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)))
    assert not net.pretrained
    assert "the hub does not answer" in net.origin
    again = ResNet18(weights="random").build((3, 32, 32), 1, torch.Generator().manual_seed(0))
    assert hash_module(again) == hash_module(net)
    assert from_json(ModelConfig, to_json(ResNet18(weights="random"))) == ResNet18(weights="random")


def test_normalisation_is_imagenets(offline):
    net = ResNet18(weights="random").build((3, 32, 32), 1, torch.Generator())
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(net.normalise(mean), torch.zeros(1, 3, 2, 2))


def test_weights_come_from_a_folder_of_the_classifier(tmp_path):
    generator = torch.Generator().manual_seed(3)
    net = ResNet18(weights="random").build((3, 32, 32), 1, generator)
    state = {f"resnet.{name}": tensor.contiguous() for name, tensor in net.trunk.state_dict().items()}
    save_file({**state, "classifier.1.weight": torch.zeros(10, 512)}, tmp_path / "model.safetensors")
    read = ResNet18(weights=str(tmp_path)).build((3, 32, 32), 1, torch.Generator().manual_seed(9))
    assert hash_module(read) == hash_module(net)
    assert read.pretrained
    del state["resnet.embedder.embedder.convolution.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"1 tensors missing.*embedder\.embedder\.convolution\.weight"):
        ResNet18(weights=str(tmp_path / "other.safetensors")).build((3, 32, 32), 1, generator)


def test_weights_that_are_not_there_are_explained(offline, tmp_path):
    with pytest.raises(InputError, match=r"does not answer.*local folder"):
        find_weights("hub")
    with pytest.raises(InputError, match="does not exist"):
        find_weights(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        find_weights(str(tmp_path / "model.bin"))


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(resnet18, "_answers", lambda *_: pytest.fail("asked"))
    assert find_weights("auto") == (None, "random start: the hub is switched off, and its cache does not hold them")


def test_the_published_parts_by_hand():
    e = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    t = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    contrastive, orientation = published_losses(e, t)
    expected = (math.log1p(math.exp(-4)) + math.log1p(math.exp(-1))) / 2
    assert float(contrastive) == pytest.approx(expected)
    assert float(orientation) == pytest.approx((9 + 0 + 0 + 1) / 4)


def test_nt_xent_by_hand():
    # Two images, views in the same directions: each row sees its partner at cosine 1 and two others at 0.
    views = torch.eye(2)
    assert float(nt_xent(views, 3 * views, 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2)))
    assert float(nt_xent(torch.ones(2, 2), torch.ones(2, 2), 0.5)) == pytest.approx(math.log(3))


@given(seed=st.integers(0, 1000), smallest=st.floats(0.05, 1.0), jitter=st.floats(0.0, 1.0))
def test_a_view_is_an_image(seed, smallest, jitter):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    seen = Views.draw(5, torch.Generator().manual_seed(seed), smallest, jitter).of(images)
    assert seen.shape == images.shape
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert torch.equal(images, torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))


def test_a_whole_view_without_jitter_is_the_image_or_its_mirror():
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    views = Views.draw(40, torch.Generator().manual_seed(1), 1.0, 0.0)
    whole = ((views.places[:, 0, 0].abs() == 1) & (views.places[:, 1, 1] == 1)).nonzero().squeeze(1)
    seen = views.of(images)
    for j in whole.tolist():
        wanted = images[j].flip(-1) if views.places[j, 0, 0] < 0 else images[j]
        torch.testing.assert_close(seen[j], wanted, atol=1e-5, rtol=1e-5)
    assert views.select(torch.zeros(0, dtype=torch.int64)).of(images[:0]).shape == (0, 1, 6, 6)
    parts = Views.draw(40, torch.Generator().manual_seed(1), 1.0, 0.0).select(torch.tensor([3, 7]))
    torch.testing.assert_close(parts.of(images[[3, 7]]), seen[[3, 7]])


def test_turning_twice_changes_nothing():
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(turned(turned(images)), images)
    assert torch.equal(turned(images)[0, 0, 0, 0], images[0, 0, 3, 4])


@pytest.mark.parametrize("form", ["views", "published"])
def test_fine_tuning_lowers_the_loss_repeats_itself_and_is_read_back(form, images, tmp_path):
    fit = Contrastive(
        form=form, epochs=8, batch_size=16, learning_rate=1e-3, smallest_crop=0.8, jitter=0.1, precision="float32"
    )
    config, trained = ResNet18(weights="random"), []
    for turn in range(2):
        start = start_embedding(config, images.shape, seed=1, out=tmp_path / f"start{turn}")
        before = hash_module(start.module)
        made = fine_tune(config, start.module, fit, images, seed=1, out=tmp_path / f"model{turn}")
        assert hash_module(made.module) != before
        trained.append(made)
    first, again = trained
    assert hash_module(first.module) == hash_module(again.module)
    assert first.curves == again.curves
    assert first.curves["step"][-1] == 8
    assert first.curves["loss"][-1] < 0.8 * first.curves["loss"][0]
    assert first.curves["loss"][0] == pytest.approx(first.curves["contrastive"][0] + first.curves["orientation"][0])
    back = load_model(tmp_path / "model0")
    assert hash_module(back.module) == hash_module(first.module)
    assert back.curves == first.curves
    start = start_embedding(config, images.shape, seed=1, out=tmp_path / "start0")
    stamp = (tmp_path / "model0" / "manifest.json").stat().st_mtime_ns
    found = fine_tune(config, start.module, fit, images, seed=1, out=tmp_path / "model0")
    assert hash_module(found.module) == hash_module(first.module)
    assert (tmp_path / "model0" / "manifest.json").stat().st_mtime_ns == stamp
    written = json.loads((tmp_path / "model0" / "manifest.json").read_text())
    assert written["config"]["model"] == {"kind": "resnet-18", "weights": "random"}


def test_the_weights_that_a_run_began_with_stay(offline, images, tmp_path, monkeypatch):
    first = start_embedding(ResNet18(), images.shape, seed=0, out=tmp_path / "start")
    monkeypatch.setattr(resnet18, "find_weights", lambda _: pytest.fail("asked again"))
    monkeypatch.setattr(ResNet18, "build", _bare_build)
    again = start_embedding(ResNet18(), images.shape, seed=0, out=tmp_path / "start")
    assert hash_module(again.module) == hash_module(first.module)
    assert again.origin == first.origin
    assert not again.pretrained


def _bare_build(config, shape, classes, generator):
    assert config.weights == "random"
    return resnet18.EmbeddingNet(resnet18._trunk(generator), 512).eval()


def test_small_sets_are_gone_over_more_often_and_none_is_taken_as_it_is(images, tmp_path):
    config = ResNet18(weights="random")
    start = start_embedding(config, images.shape, seed=0, out=tmp_path / "start")
    fit = Contrastive(epochs=1, least_steps=2, batch_size=10, precision="float32")
    assert fine_tune(config, start.module, fit, images, seed=0, out=tmp_path / "a").curves["step"][-1] == 2
    start = start_embedding(config, images.shape, seed=0, out=tmp_path / "start")
    as_it_is = fine_tune(config, start.module, Contrastive(epochs=0, least_steps=9), images, seed=0, out=tmp_path / "b")
    assert as_it_is.curves["step"] == []
    assert hash_module(as_it_is.module) == hash_module(load_model(tmp_path / "start").module)


def test_what_makes_no_sense_is_refused(images, tmp_path):
    for change in (
        {"batch_size": 1},
        {"temperature": 0.0},
        {"smallest_crop": 0.0},
        {"epochs": -1},
        {"orientation": -1.0},
    ):
        with pytest.raises(InputError):
            Contrastive(**change)
    start = start_embedding(ResNet18(weights="random"), images.shape, seed=0, out=tmp_path / "start")
    one = MemoryImages(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ["image"])
    with pytest.raises(InputError, match="at least 2, got 1"):
        fine_tune(ResNet18(weights="random"), start.module, Contrastive(), one, seed=0, out=tmp_path / "a")
