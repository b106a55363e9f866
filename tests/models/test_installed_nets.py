"""Networks of timm and torchvision, by stand-ins that offer what the real packages offer."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.models.preprocess import Preprocess
from unweave.models.timm_net import Timm, steps_of_timm
from unweave.models.torchvision_net import Torchvision, steps_of_preset

SETTINGS = {
    "input_size": (3, 24, 24),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 0.75,
    "crop_mode": "center",
}


class Transforms:
    """What both packages do to a Pillow image: the shorter side to 32, the central 24, (x − 0.5) / 0.25."""

    crop_size, resize_size, mean, std = [24], [32], [0.5] * 3, [0.25] * 3

    def __init__(self, interpolation="bilinear", left_out=0):
        self.interpolation, self.left_out = SimpleNamespace(value=interpolation), left_out

    def __call__(self, picture):
        width, height = picture.size
        short = min(width, height)
        filter_ = getattr(Image.Resampling, self.interpolation.value.upper())
        picture = picture.resize((int(32 * width / short), int(32 * height / short)), filter_)
        left, top = round((picture.width - 24) / 2), round((picture.height - 24) / 2) - self.left_out
        pixels = np.asarray(picture.crop((left, top, left + 24, top + 24)), np.float32) / 255
        return torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def timm(monkeypatch):
    package, data = ModuleType("timm"), ModuleType("timm.data")

    def create_model(name, *, pretrained):
        if name.removeprefix("local-dir:") != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        made = network()
        made.num_classes, made.pretrained_cfg = 4, {}
        return made

    package.create_model, package.data = create_model, data
    package.get_pretrained_cfg = lambda name: None if ":" in name else SimpleNamespace(to_dict=lambda: SETTINGS)
    data.resolve_model_data_config = lambda model: SETTINGS
    data.resolve_data_config = lambda pretrained_cfg: pretrained_cfg
    data.infer_imagenet_subset = lambda model: "four"
    data.ImageNetInfo = lambda subset: SimpleNamespace(label_descriptions=lambda: ["a", "b", "c", "d"])
    data.create_transform = lambda *, interpolation, is_training, **rest: Transforms(interpolation)
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.data", data)


@pytest.fixture
def torchvision(monkeypatch):
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    weights = SimpleNamespace(transforms=Transforms, meta={"categories": ["a", "b", "c", "d"]})
    models.get_model_weights = lambda name: {"tiny": {"DEFAULT": weights}}[name]
    models.get_model = lambda name, weights: network()
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_timm(timm):
    net = Timm(name="tiny").build((0, 0, 0), 0, torch.Generator().manual_seed(0))
    assert net(torch.rand(2, 3, 50, 60)).shape == (2, 4)
    assert [name for name, _ in net.named_modules()] == ["", "preprocess", "0", "1", "2"]
    assert net.framing == Timm(name="tiny").framing() == Framing(height=32, width=32)
    assert net.class_names == ["a", "b", "c", "d"]
    assert Timm(name="tiny", weights="random").build((0, 0, 0), 0, torch.Generator()).class_names is None
    with pytest.raises(InputError, match="timm cannot make 'other'"):
        Timm(name="other").build((0, 0, 0), 0, torch.Generator())


def test_a_name_that_timm_has_no_settings_of_is_framed_as_its_network_says(timm):
    assert Timm(name="local-dir:tiny").framing() == Framing(height=32, width=32)


def test_transforms_that_do_something_else_are_found_out(timm, torchvision):
    sys.modules["timm.data"].create_transform = lambda **settings: Transforms("bicubic", left_out=1)
    with pytest.raises(InputError, match=r"timm's tiny gives pixels that differ by .* grey levels"):
        Timm(name="tiny").build((0, 0, 0), 0, torch.Generator())
    videos = SimpleNamespace(transforms=Videos, meta={})
    sys.modules["torchvision.models"].get_model_weights = lambda name: {"DEFAULT": videos}
    with pytest.raises(InputError, match="does not take one image alone"):
        Torchvision(name="tiny").build((0, 0, 0), 0, torch.Generator())


class Videos(Transforms):
    def __call__(self, frames):
        return frames.ndim


def test_torchvision(torchvision):
    net = Torchvision(name="tiny").build((0, 0, 0), 0, torch.Generator().manual_seed(0))
    assert net(torch.rand(2, 3, 50, 60)).shape == (2, 4)
    assert net.class_names == ["a", "b", "c", "d"]
    assert Torchvision(name="tiny").framing() == Framing(height=32, width=32, resample="bilinear")
    for wrong in (Torchvision(name="other"), Torchvision(name="tiny", weights="BEST")):
        with pytest.raises(InputError, match="torchvision has no network"):
            wrong.build((0, 0, 0), 0, torch.Generator())


def test_their_steps():
    steps = steps_of_timm(SETTINGS)
    assert (steps.size, steps.crop, steps.gain[0], steps.shift[0]) == ((32,), (24, 24), 4.0, -2.0)
    assert steps_of_timm({**SETTINGS, "crop_mode": "squash"}).size == (32, 32)
    border = steps_of_timm({**SETTINGS, "crop_mode": "border"})
    assert (border.within, border.resized(50, 100), border.seen(50, 100)) == (
        (32, 32),
        (16, 32),
        (-0.25, 0.125, 1.25, 0.875),
    )
    wide = Preprocess(border)(torch.zeros(1, 3, 16, 32))
    assert (wide[0, 0, 0, 0].item(), wide[0, 0, 12, 12].item()) == pytest.approx((128 / 255 / 0.25 - 2, -2.0), abs=1e-6)
    with pytest.raises(InputError, match="crop_mode 'tiles'"):
        steps_of_timm({**SETTINGS, "crop_mode": "tiles"})
    assert steps_of_preset(Transforms()).crop == (24, 24)
    with pytest.raises(InputError, match="no transforms for classification"):
        steps_of_preset(object())


def test_without_the_packages_the_install_is_named(monkeypatch):
    for name in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    for config in (Timm(name="tiny"), Torchvision(name="tiny")):
        with pytest.raises(InputError, match=r"pip install 'unweave\[timm\]'"):
            config.build((0, 0, 0), 0, torch.Generator())
