"""Networks of timm, with the preprocessing that belongs to their weights."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.framing import Filter, Framing
from unweave.core.optional import needs
from unweave.core.registry import register
from unweave.models.adopted import VisionNet
from unweave.models.base import ModelConfig
from unweave.models.preprocess import Preprocess, Steps, check_transforms


@register("timm")
@dataclass(frozen=True, kw_only=True)
class Timm(ModelConfig):
    """A network of timm (PyTorch Image Models) under the names of its own parts.

    Images are given in [0, 1] in any size; the resize, crop and normalisation of its data configuration are its first
    layer, `preprocess`, which is held against timm's own transforms when the network is built. The answers are its
    logits.

    Source: https://github.com/huggingface/pytorch-image-models.
    """

    name: str
    "as timm.create_model takes it: vit_small_patch16_224.dino, hf-hub:ORG/NAME or local-dir:FOLDER"
    weights: Literal["pretrained", "random"] = "pretrained"
    "those that belong to the name, or a random start"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The network with its weights; shape and classes do not matter to it.

        Raises:
            InputError: timm is not installed, knows no such network, or cannot have its weights; or the network does
                not take images.
        """
        library, data = _library()
        inner = self._network(library, generator)
        settings = data.resolve_model_data_config(inner)
        module = Preprocess(steps_of_timm(settings), int(settings["input_size"][0]))
        check_transforms(module, data.create_transform(**settings, is_training=False), f"timm's {self.name}")
        return VisionNet(inner, module, None if self.weights == "random" else _class_names(data, inner))

    def _network(self, library: Any, generator: torch.Generator) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())  # timm draws a start from torch's own generator
            try:
                made: nn.Module = library.create_model(self.name, pretrained=self.weights == "pretrained").eval()
            except Exception as error:  # its registry, the hub and the files may fail in any way
                raise InputError(f"timm cannot make {self.name!r}: {type(error).__name__}: {error}") from error
        return made

    def framing(self) -> Framing | None:
        """How image files are best read for it."""
        library, data = _library()
        known = library.get_pretrained_cfg(self.name)
        if known is None:  # of hf-hub:, local-dir: and the names of earlier versions, only the network itself knows
            settings = data.resolve_model_data_config(self.untrained()._network(library, torch.Generator()))
        else:
            settings = data.resolve_data_config(pretrained_cfg=known.to_dict())
        return steps_of_timm(settings).framing()

    def untrained(self) -> "Timm":
        """The same network with a random start."""
        return dataclasses.replace(self, weights="random")


def _library() -> tuple[Any, Any]:
    what = "the model 'timm'"
    return needs("timm", extra="timm", what=what), needs("timm.data", extra="timm", what=what)


def _class_names(data: Any, inner: Any) -> list[str] | None:
    """Names of a classifier's classes: its own, or those of the ImageNet that it was trained on; None if not known."""
    if inner.num_classes == 0:
        return []
    names = (inner.pretrained_cfg or {}).get("label_names")
    if names is None:
        subset = data.infer_imagenet_subset(inner)
        names = () if subset is None else data.ImageNetInfo(subset).label_descriptions()
    return list(names) if len(names) == inner.num_classes else None


def steps_of_timm(settings: Mapping[str, Any]) -> Steps:
    """The steps of timm's transforms for evaluation.

    Args:
        settings: a data configuration: input_size, interpolation, mean, std, crop_pct, crop_mode.

    Raises:
        InputError: its images are framed in a way that is not known here.
    """
    height, width = int(settings["input_size"][1]), int(settings["input_size"][2])
    share = float(settings.get("crop_pct") or 0.875)
    larger = math.floor(height / share), math.floor(width / share)
    mode = settings.get("crop_mode") or "center"
    if mode == "squash":
        sizes: dict[str, Any] = {"size": larger}
    elif mode == "center":
        sizes = {"size": (larger[0],)} if larger[0] == larger[1] else {"cover": larger}
    elif mode == "border":
        sizes = {"within": larger, "fill": tuple(round(255 * float(level)) / 255 for level in settings["mean"])}
    else:
        raise InputError(f"timm's crop_mode {mode!r} is not supported; wrap the network by --model custom")
    mean, std = settings["mean"], settings["std"]
    return Steps(
        **sizes,
        resample=cast("Filter", "bicubic" if settings["interpolation"] == "random" else settings["interpolation"]),
        crop=(height, width),
        rounds=True,
        gain=tuple(1 / float(one) for one in std),
        shift=tuple(-float(at) / float(one) for at, one in zip(mean, std, strict=True)),
    )
