"""Networks of timm and torchvision, by stand-ins that offer what the real packages offer."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.framing import Framing
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
PRESET = SimpleNamespace(
    crop_size=[24], resize_size=[32], mean=[0.5] * 3, std=[0.25] * 3, interpolation=SimpleNamespace(value="bilinear")
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def timm(monkeypatch):
    package, data = ModuleType("timm"), ModuleType("timm.data")

    def create_model(name, *, pretrained):
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return network()

    package.create_model, package.data = create_model, data
    package.get_pretrained_cfg = lambda name: SimpleNamespace(to_dict=lambda: SETTINGS)
    data.resolve_model_data_config = lambda model: SETTINGS
    data.resolve_data_config = lambda pretrained_cfg: pretrained_cfg
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.data", data)


@pytest.fixture
def torchvision(monkeypatch):
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    weights = SimpleNamespace(transforms=lambda: PRESET, meta={"categories": ["a", "b", "c", "d"]})
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
    with pytest.raises(InputError, match="timm cannot make 'other'"):
        Timm(name="other").build((0, 0, 0), 0, torch.Generator())


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
    with pytest.raises(InputError, match="crop_mode 'border'"):
        steps_of_timm({**SETTINGS, "crop_mode": "border"})
    assert steps_of_preset(PRESET).crop == (24, 24)
    with pytest.raises(InputError, match="no transforms for classification"):
        steps_of_preset(object())


def test_without_the_packages_the_install_is_named(monkeypatch):
    for name in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    for config in (Timm(name="tiny"), Torchvision(name="tiny")):
        with pytest.raises(InputError, match=r"pip install 'unweave\[timm\]'"):
            config.build((0, 0, 0), 0, torch.Generator())
