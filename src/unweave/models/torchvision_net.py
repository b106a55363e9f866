"""Networks of torchvision, with the preprocessing that belongs to their weights."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.framing import Filter, Framing
from unweave.core.optional import needs
from unweave.core.registry import register
from unweave.models.adopted import VisionNet
from unweave.models.base import ModelConfig
from unweave.models.preprocess import Preprocess, Steps, check_transforms

_RANDOM = "random"


@register("torchvision")
@dataclass(frozen=True, kw_only=True)
class Torchvision(ModelConfig):
    """A classifier of torchvision under the names of its own parts.

    Images are given in [0, 1] in any size; the resize, crop and normalisation that belong to its weights are its first
    layer, `preprocess`, which is held against torchvision's own transforms when the network is built. The answers are
    its logits.

    Source: https://docs.pytorch.org/vision/stable/models.html.
    """

    name: str
    "as torchvision.models.get_model takes it, resnet50 for example"
    weights: str = "DEFAULT"
    "which of its weights (DEFAULT, IMAGENET1K_V1, ...), or random"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The network with its weights; shape and classes do not matter to it.

        Raises:
            InputError: torchvision is not installed, knows no such network or weights, or cannot have them; or the
                network does not take single images.
        """
        models = needs("torchvision.models", extra="timm", what="the model 'torchvision'")
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())  # torchvision draws a start from torch's own generator
            try:
                chosen = self._chosen(models)
                preset = chosen.transforms()
                module = Preprocess(steps_of_preset(preset), 3)
                check_transforms(module, preset, f"torchvision's {self.name}")
                inner = models.get_model(self.name, weights=None if self.weights == _RANDOM else chosen).eval()
            except InputError:
                raise
            except Exception as error:  # its registry, the download and the files may fail in any way
                raise InputError(f"torchvision cannot make {self.name!r}: {type(error).__name__}: {error}") from error
        names = None if self.weights == _RANDOM else chosen.meta.get("categories")
        return VisionNet(inner, module, names)

    def framing(self) -> Framing | None:
        """How image files are best read for it."""
        models = needs("torchvision.models", extra="timm", what="the model 'torchvision'")
        return steps_of_preset(self._chosen(models).transforms()).framing()

    def untrained(self) -> "Torchvision":
        """The same network with a random start."""
        return dataclasses.replace(self, weights=_RANDOM)

    def _chosen(self, models: Any) -> Any:
        """The weights; for a random start the default ones, whose preprocessing is then used."""
        try:
            known = models.get_model_weights(self.name)
            return known["DEFAULT" if self.weights == _RANDOM else self.weights]
        except (KeyError, ValueError) as error:
            raise InputError(
                f"torchvision has no network {self.name!r} with weights {self.weights!r}: {error}"
            ) from None


def steps_of_preset(preset: Any) -> Steps:
    """The steps of torchvision's transforms for classification.

    Args:
        preset: with crop_size, resize_size, interpolation, mean and std.

    Raises:
        InputError: it is another kind of transforms.
    """
    try:
        crop, resized = list(preset.crop_size), list(preset.resize_size)
        mean, std = list(preset.mean), list(preset.std)
        resample = str(preset.interpolation.value)
    except AttributeError as error:
        raise InputError(f"{type(preset).__name__} are no transforms for classification: {error}") from None
    return Steps(
        size=tuple(resized),
        resample=cast("Filter", resample),
        crop=(crop[0], crop[-1]),
        rounds=True,
        gain=tuple(1 / float(one) for one in std),
        shift=tuple(-float(at) / float(one) for at, one in zip(mean, std, strict=True)),
    )
