"""One hidden layer, relu(tanh(·))."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from unweave.core.registry import register
from unweave.models.base import ModelConfig, linear


@register("linear")
@dataclass(frozen=True, kw_only=True)
class OneLayer(ModelConfig):
    """One linear layer with relu(tanh(·)), then the classes: hook `hidden` is the layer after both functions."""

    width: int = 49
    "hidden units"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """An untrained network; see `ModelConfig.build`."""
        pixels = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=linear(pixels, self.width, generator),
                hidden=nn.Sequential(nn.Tanh(), nn.ReLU()),
                fc2=linear(self.width, classes, generator),
            )
        )
