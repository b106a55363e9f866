"""What cannot be taken apart is told before a network is trained."""

import pytest
import torch
from torch import nn

from unweave.capture import Capture
from unweave.core.errors import InputError
from unweave.datasets.base import MemoryTexts
from unweave.datasets.digits import Digits
from unweave.recipes.base import execute
from unweave.recipes.layer.study import LayerStudy
from unweave.recipes.probe import probe


def net() -> nn.Module:
    """Takes digits."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10), nn.Identity())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"at": ("",)}, "--at is empty; name the layer, a module of the network: 0, 1, 2, 3, 4"),
        ({"at": ("[0-3]",)}, r"'\[0-3\]' stands for 4 modules \(0, 1, 2, 3\).*--at 0"),
        ({"at": ("9",)}, "no module '9'"),
        ({"at": ("3",), "rows": "cls"}, "needs tokens"),
    ],
)
def test_a_layer_that_cannot_be_had_is_told_from_two_examples(wrong, words):
    with pytest.raises(InputError, match=words):
        probe(net(), Digits().load("train", None), Capture(**wrong))


def test_a_layer_that_can_be_had_is_left_as_it_was():
    model = net().train()
    before = [one.clone() for one in model.parameters()]
    probe(model, Digits().load("train", None), Capture(at=("[3]",)))
    assert model.training
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_texts_for_a_model_without_tokenizer_are_told():
    with pytest.raises(InputError, match="tokenizer"):
        probe(net(), MemoryTexts(["a", "b", "c"]), Capture(at=("0",)))


@pytest.mark.parametrize("wrong", [{"at": "relu*"}, {"at": ""}, {"grid": "3x5"}, {"rows": "cls"}])
def test_nothing_is_trained_for_a_layer_that_cannot_be_had(wrong, tmp_path):
    with pytest.raises(InputError):
        execute("layer", LayerStudy(**wrong), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
