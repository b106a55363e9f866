"""Multilayer perceptron with tanh."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from unweave.core.registry import register
from unweave.models.base import ModelConfig, linear


@register("tanh")
@dataclass(frozen=True, kw_only=True)
class Tanh(ModelConfig):
    """Multilayer perceptron with tanh and Glorot's start: layers fc0, fc1, …, activations tanh0, tanh1 and so on."""

    widths: tuple[int, ...] = (32, 16)
    "units of each hidden layer"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """An untrained network; see `ModelConfig.build`."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = shape[0] * shape[1] * shape[2]
        for index, units in enumerate(self.widths):
            layers[f"fc{index}"] = linear(width, units, generator, init="xavier-tanh")
            layers[f"tanh{index}"] = nn.Tanh()
            width = units
        layers[f"fc{len(self.widths)}"] = linear(width, classes, generator, init="xavier-tanh")
        return nn.Sequential(layers)
