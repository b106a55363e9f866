"""The registered networks: shapes, names of hook points, and a start that a generator alone decides."""

import pytest
import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.models.base import ModelConfig, Normalise, linear
from unweave.models.mlp import MLP
from unweave.models.one_layer import OneLayer
from unweave.models.tanh import Tanh

SMALL = [MLP(widths=(7, 5)), OneLayer(width=6), Tanh(widths=(4, 3))]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c.kind)
def test_images_become_one_logit_a_class(config):
    module = config.build((3, 4, 5), 10, seeded())
    assert module(torch.rand(2, 3, 4, 5)).shape == (2, 10)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (MLP(widths=(7, 5)), ["normalise", "flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]),
        (MLP(widths=()), ["normalise", "flatten", "fc1"]),
        (OneLayer(), ["flatten", "fc1", "hidden", "fc2"]),
        (Tanh(), ["flatten", "fc0", "tanh0", "fc1", "tanh1", "fc2"]),
    ],
    ids=["mlp", "mlp-no-hidden", "linear", "tanh"],
)
def test_hook_points_have_the_names_that_the_docstrings_promise(config, names):
    assert [name for name, _ in config.build((1, 2, 2), 3, seeded()).named_children()] == names


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c.kind)
def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(config):
    before = torch.get_rng_state()
    first = config.build((1, 4, 4), 3, seeded(1)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = (config.build((1, 4, 4), 3, seeded(s)).state_dict() for s in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


@pytest.mark.parametrize("init", ["torch", "xavier-tanh"])
def test_starting_weights_fill_their_bounds(init):
    layer = linear(400, 100, seeded(), init=init)
    bound = 400**-0.5 if init == "torch" else 5 / 3 * (6 / 500) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.mean().abs() < 0.02 * bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (layer.bias.abs().max() > 0.8 * bound) if init == "torch" else (layer.bias == 0).all()


def test_the_start_is_as_wide_as_torchs_own():
    torchs = nn.Linear(900, 50)
    ours = linear(900, 50, seeded())
    assert ours.weight.std().item() == pytest.approx(torchs.weight.std().item(), rel=0.02)
    assert ours.bias.abs().max() <= 1 / 30


def test_normalise_by_hand():
    module = Normalise(0.5, 0.25)
    assert torch.equal(module(torch.tensor([0.5, 1.0, 0.0])), torch.tensor([0.0, 2.0, -2.0]))
    assert set(module.state_dict()) == {"mean", "std"}
    with pytest.raises(InputError, match="std"):
        Normalise(0.0, 0.0)


def test_the_mlp_by_hand():
    module = MLP(widths=(1,), mean=1.0, std=2.0).build((1, 1, 2), 1, seeded())
    state = {
        "fc1.weight": torch.tensor([[1.0, 1.0]]),
        "fc1.bias": torch.tensor([0.5]),
        "fc2.weight": torch.tensor([[3.0]]),
        "fc2.bias": torch.tensor([-1.0]),
    }
    module.load_state_dict(state, strict=False)
    # (3 − 1)/2 + (1 − 1)/2 + 0.5 = 1.5 → 3.5;  (0 − 1)/2 + (0 − 1)/2 + 0.5 < 0 → −1
    assert torch.equal(module(torch.tensor([[[[3.0, 1.0]]], [[[0.0, 0.0]]]])), torch.tensor([[3.5], [-1.0]]))


def test_the_hidden_layer_of_the_one_layer_net_is_relu_of_tanh():
    module = OneLayer(width=3).build((1, 2, 2), 2, seeded())
    x = torch.randn(5, 1, 2, 2)
    pre = module.fc1(x.flatten(1))
    assert torch.equal(module.hidden(pre), torch.relu(torch.tanh(pre)))


@pytest.mark.parametrize("config", [MLP(widths=(0,)), OneLayer(width=0), Tanh(widths=(3, -1))], ids=lambda c: c.kind)
def test_a_layer_without_units_is_refused(config):
    with pytest.raises(InputError, match="at least one"):
        config.build((1, 2, 2), 2, seeded())


def test_every_registered_model_is_found():
    assert {"mlp", "linear", "tanh", "custom"} <= set(ModelConfig.registry.members())
