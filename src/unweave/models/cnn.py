"""A small convolutional network."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.models.base import ModelConfig, Normalise, linear


@register("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(ModelConfig):
    """Convolutions of 3 × 3 with ReLU, then a mean over places: layers conv1, relu1, conv2, …, pool, fc.

    Hook `relu2` gives the feature map of the second layer [b, c, h, w], of which each place is a row.
    """

    widths: tuple[int, ...] = (32, 64)
    "channels of each layer"
    strides: tuple[int, ...] = (1, 2)
    "steps from place to place in each layer; 2 halves height and width"
    mean: float = 0.0
    "subtracted from every pixel (pixels lie in [0, 1])"
    std: float = 1.0
    "pixels are divided by it"

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, *self.strides) < 1 or len(self.widths) != len(self.strides):
            raise InputError(
                f"widths and strides need one number from 1 on for each layer, got {list(self.widths)} and "
                f"{list(self.strides)}"
            )

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """An untrained network; see `ModelConfig.build`."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(self.mean, self.std))
        channels = shape[0]
        for index, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True), start=1):
            convolution: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, channels, width, 3, stride=stride, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers[f"conv{index}"], layers[f"relu{index}"] = convolution, nn.ReLU()
            channels = width
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = linear(channels, classes, generator)
        return nn.Sequential(layers)
