"""Networks of transformers from a folder: small ones with random weights, written as the real ones are distributed."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.hashing import hash_module
from unweave.models import pretrained
from unweave.models.adopted import ReadsText, one_answer
from unweave.models.base import ModelConfig
from unweave.models.hooks import HookPoints
from unweave.models.pretrained import Pretrained

transformers = pytest.importorskip("transformers")
tiny_networks = pytest.importorskip("tiny_networks")

IMAGES = ["resnet", "vit", "dinov2", "dinov2-registers", "clip", "siglip", "convnext", "swin", "beit"]
TEXTS = ["bert", "sentences", "gpt2", "t5"]
SENTENCES = ["a photo of the cat", "the dog", "good film and not bad"]
HOOKS = {
    "resnet": "resnet.encoder.stages.0.layers.0",
    "vit": "vit.layers.0",
    "dinov2": "encoder.layer.0",
    "dinov2-registers": "encoder.layer.0",
    "clip": "vision_model.encoder.layers.0",
    "siglip": "vision_model.encoder.layers.0",
    "convnext": "convnext.encoder.stages.0",
    "swin": "swin.encoder.layers.0",
    "beit": "beit.layers.0",
    "bert": "bert.encoder.layer.0",
    "sentences": "encoder.layer.0",
    "gpt2": "transformer.h.0",
    "t5": "block.0",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each of the networks."""
    root = tmp_path_factory.mktemp("networks")
    return {name: tiny_networks.write_network(name, root / name) for name in HOOKS}


def build(folder, **options) -> nn.Module:
    return Pretrained(name=str(folder), **options).build((0, 0, 0), 0, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", IMAGES)
def test_answers_are_those_of_transformers_with_its_own_processor(places, name):
    net = build(places[name])
    pixels = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(places[name], **pretrained._pillow(transformers))
    read = processor(images=list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt")
    with torch.no_grad():
        if name in ("clip", "siglip"):
            wanted = one_answer(net.inner.get_image_features(**read))
        else:
            wanted = one_answer(net.inner(**read))
        found = net(pixels.float() / 255)
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)  # the processor rounds to bytes between its steps


@pytest.mark.parametrize("name", IMAGES + TEXTS)
def test_parts_have_the_names_of_the_network_itself_and_can_be_read(places, name):
    net = build(places[name])
    names = [part for part, _ in net.named_modules()]
    assert [part for part in names if not part.startswith("preprocess")] == [
        part for part, _ in type(net.inner)._from_config(net.inner.config).named_modules()
    ] or name == "t5"  # whose encoder is a part of a larger network
    inputs = {"images": torch.rand(2, 3, 40, 40)} if name in IMAGES else net.tokenize(SENTENCES)
    read = HookPoints(net, HOOKS[name]).read(*inputs.values())[HOOKS[name]]
    assert read.shape[0] == (2 if name in IMAGES else 3)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_several_lengths_are_answered_as_each_alone(places, name):
    net = build(places[name])
    assert isinstance(net, ReadsText)
    with torch.no_grad():
        together = net(**net.tokenize(SENTENCES))
        as_one_tensor = net(net.encode(SENTENCES, length=12))
        alone = torch.cat([net(**net.tokenize([text])) for text in SENTENCES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(as_one_tensor, alone, atol=1e-5, rtol=1e-5)


def test_tokens_are_counted_as_the_network_reads_them(places):
    bert, gpt = build(places["bert"]), build(places["gpt2"])
    assert bert.tokens(["the dog sat"]) == [["[CLS]", "the", "dog", "sat", "[SEP]"]]
    assert gpt.tokens(["the dog sat", "a cat"]) == [["the", "dog", "sat"], ["a", "cat"]]
    assert [len(one) for one in gpt.tokens(["the dog sat", "a cat"])] == gpt.tokenize(["the dog sat", "a cat"])[
        "attention_mask"
    ].sum(1).tolist()


def test_long_texts_are_cut_and_empty_ones_refused(places):
    net = build(places["gpt2"], max_length=4)
    assert net.tokenize(["the dog " * 20])["input_ids"].shape == (1, 4)
    with pytest.raises(InputError, match="no token of the text ''"):
        net.tokenize(["the dog", ""])
    with pytest.raises(InputError, match="reads 1 to 16 tokens"):
        build(places["gpt2"], max_length=17)


def test_images_are_compared_with_texts(places):
    net = build(places["clip"], texts=("a photo of the cat", "the dog"))
    images = torch.rand(3, 3, 40, 40)
    with torch.no_grad():
        read = transformers.AutoTokenizer.from_pretrained(places["clip"])(
            ["a photo of the cat", "the dog"], padding=True, return_tensors="pt"
        )
        wanted = net.inner(**read, pixel_values=net.preprocess(images)).logits_per_image
        torch.testing.assert_close(net(images), wanted)
    assert net.class_names == ["a photo of the cat", "the dog"]


def test_the_text_side_of_a_network_of_both(places):
    net = build(places["clip"], part="text")
    assert net(**net.tokenize(SENTENCES)).shape == (3, 8)
    assert HookPoints(net, "text_model.encoder.layers.1").read(**net.tokenize(SENTENCES))


def test_half_precision_answers_in_floats(places):
    net = build(places["vit"], dtype="bfloat16")
    full = build(places["vit"])
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert net.precision() == torch.bfloat16
        torch.testing.assert_close(net(images), full(images), atol=0.05, rtol=0.05)
        assert net(images).dtype == torch.float32
    assert net.preprocess.gain.dtype == torch.float32


def test_a_random_start_is_that_of_its_seed(places):
    config = Pretrained(name=str(places["vit"])).untrained()
    first, again = (config.build((0, 0, 0), 0, torch.Generator().manual_seed(1)) for _ in range(2))
    other = config.build((0, 0, 0), 0, torch.Generator().manual_seed(2))
    assert hash_module(first) == hash_module(again) != hash_module(other)
    assert hash_module(first) != hash_module(build(places["vit"]))


def test_the_image_that_is_seen_and_how_files_are_read(places):
    net = build(places["dinov2"])
    view = net.image_view(80, 80)
    assert (view.size, view.area) == ((32, 32), pytest.approx((0.1, 0.1, 0.9, 0.9)))
    assert net.framing == Pretrained(name=str(places["dinov2"])).framing()
    assert (net.framing.height, net.framing.fit, net.framing.resample) == (40, "crop", "bicubic")
    assert Pretrained(name=str(places["bert"])).framing() is None


def test_a_copy_stands_on_its_own_and_the_mode_reaches_the_inner_network(places):
    net = build(places["vit"])
    twin = copy.deepcopy(net)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
        assert next(twin.inner.parameters()) is next(twin.parameters())
    assert hash_module(net) != hash_module(twin)
    net.train()
    assert net.inner.training
    assert not twin.inner.training


def test_class_names_are_those_of_the_classifier(places, tmp_path):
    said = json.loads((places["vit"] / "config.json").read_text())
    folder = tmp_path / "named"
    folder.mkdir()
    for path in places["vit"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps({**said, "id2label": {"0": "cat", "1": "dog", "2": "ship"}}))
    assert build(folder).class_names == ["cat", "dog", "ship"]
    assert build(places["vit"]).class_names is None
    assert build(places["dinov2"]).class_names == []
    assert build(places["vit"], head="none")(torch.rand(1, 3, 32, 32)).shape == (1, 16)


def test_it_survives_json_and_knows_where_it_lies(places, monkeypatch):
    config = Pretrained(name=places["vit"].name, texts=("a", "b"))
    assert from_json(ModelConfig, to_json(config)) == config
    monkeypatch.chdir(places["vit"].parent)
    assert config.located() == dataclasses.replace(config, name=str(places["vit"]))


@pytest.mark.parametrize(
    ("offline", "message"), [(True, "is switched off"), (False, "does not answer, or has no such network")]
)
def test_what_is_not_there_is_explained(monkeypatch, offline, message):
    monkeypatch.setattr(pretrained, "switched_off", lambda: offline)
    monkeypatch.setattr(pretrained, "answers", lambda *_: False)
    with pytest.raises(InputError, match=rf"{message}.*hf download some/network --local-dir DIR"):
        build("some/network")
    with pytest.raises(InputError, match="no folder"):
        build("some/where/else")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_explained(tmp_path, change, message):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")
    change(folder)
    with pytest.raises(InputError, match=message):
        build(folder)


def test_weights_of_another_network_are_refused(tmp_path, places):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="not those of the whole network: 16 tensors are missing"):
        build(folder)
    with pytest.raises(InputError, match="takes no texts"):
        build(places["vit"], part="text")
    with pytest.raises(InputError, match="texts are what images are compared with"):
        build(places["bert"], texts=("a",))


def test_a_network_of_timm_is_sent_there(tmp_path):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")
    said = {"model_type": "timm_wrapper", "architecture": "resnet18", "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(said))
    for use in (build, lambda folder: Pretrained(name=str(folder)).framing()):
        with pytest.raises(InputError, match=r"network of timm: --model timm --model.name local-dir:.*vit"):
            use(folder)


def test_a_processor_that_transformers_has_not_is_read_by_its_settings_and_said_once(tmp_path, caplog):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")
    file = folder / "preprocessor_config.json"
    settings = {**json.loads(file.read_text()), "image_processor_type": "NewImageProcessor"}
    file.write_text(json.dumps(settings))
    assert Pretrained(name=str(folder)).framing() == Framing(height=32, width=32, fit="stretch", resample="bilinear")
    assert build(folder)(torch.rand(1, 3, 50, 40)).shape == (1, 3)
    assert [record.message for record in caplog.records if "NewImageProcessor" in record.message] == [
        "transformers has no NewImageProcessor here: its settings are taken without a check against it"
    ]
    caplog.clear()
    file.write_text(json.dumps({**settings, "size": {"area": 9}}))
    with pytest.raises(InputError, match=r"has no NewImageProcessor here .*not understood.*preprocessing none"):
        build(folder)
    assert not caplog.records


def test_what_a_network_lacks_is_named(tmp_path, monkeypatch):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")

    def lacks(*_args, **_options):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'ViT'") from error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lacks)
    with pytest.raises(InputError, match=r"Could not import module 'ViT' \(RuntimeError: operator torchvision::nms"):
        build(folder)


def test_a_masked_autoencoder_sees_every_patch_in_order(tmp_path):
    folder = tiny_networks.write_network("mae", tmp_path / "mae")
    net, images = build(folder), torch.rand(2, 3, 32, 32)
    read = HookPoints(net, "layers.0").read(images)["layers.0"]
    assert read.shape == (2, 17, 16)
    assert torch.equal(read, HookPoints(net, "layers.0").read(images)["layers.0"])
    plain = transformers.ViTModel(transformers.ViTConfig(**vars(net.inner.config)), add_pooling_layer=False).eval()
    plain.load_state_dict(transformers.ViTMAEModel.from_pretrained(folder).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net(images), plain(net.preprocess(images)).last_hidden_state.mean(1))


def test_a_network_that_waits_for_prompts_answers_with_its_image_embedding(tmp_path):
    net, images = build(tiny_networks.write_network("sam", tmp_path / "sam")), torch.rand(2, 3, 40, 80)
    with torch.no_grad():
        wanted = net.inner.get_image_embeddings(net.preprocess(images))
        torch.testing.assert_close(net(images), wanted.mean((2, 3)))
    assert net.preprocess(images).shape == (2, 3, 64, 64)
    assert net.image_view(40, 80).area == (0.0, 0.0, 2.0, 1.0)  # the lower half is filled up


def test_images_as_they_are(tmp_path):
    folder = tiny_networks.write_network("vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    net = build(folder, preprocessing="none")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(net.preprocess(images), images)
