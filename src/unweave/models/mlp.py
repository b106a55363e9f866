"""Multilayer perceptron with ReLU."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from unweave.core.registry import register
from unweave.models.base import ModelConfig, Normalise, linear


@register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(ModelConfig):
    """Multilayer perceptron with ReLU: layers fc1, fc2, …; hook `fc2` is the second layer before its ReLU."""

    widths: tuple[int, ...] = (128, 128)
    "units of each hidden layer"
    mean: float = 0.0
    "subtracted from every pixel (pixels lie in [0, 1])"
    std: float = 1.0
    "pixels are divided by it"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """An untrained network; see `ModelConfig.build`."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            normalise=Normalise(self.mean, self.std), flatten=nn.Flatten()
        )
        width = shape[0] * shape[1] * shape[2]
        for index, units in enumerate(self.widths, start=1):
            layers[f"fc{index}"] = linear(width, units, generator)
            layers[f"relu{index}"] = nn.ReLU()
            width = units
        layers[f"fc{len(self.widths) + 1}"] = linear(width, classes, generator)
        return nn.Sequential(layers)
