"""ResNet-18 as an embedding, with ImageNet weights where they are at hand."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.optional import needs
from unweave.core.reachable import ANSWER_SECONDS
from unweave.core.reachable import answers as _answers
from unweave.core.registry import register
from unweave.models.base import ModelConfig
from unweave.models.embedding import EmbeddingNet
from unweave.store.files import load_tensors

REPOSITORY = "microsoft/resnet-18"
_FILE = "model.safetensors"
_PREFIX = "resnet."
_HEAD = "classifier."
_WIDTHS = (64, 128, 256, 512)


@register("resnet-18")
@dataclass(frozen=True, kw_only=True)
class ResNet18(ModelConfig):
    """ResNet-18 without its classifier: images in [0, 1] to a 512-d embedding (hook `embedding`; `unit` at length 1).

    He, Zhang, Ren & Sun (2016), "Deep residual learning for image recognition". The network is that of transformers
    (`microsoft/resnet-18`), ImageNet's normalisation is part of it, and images may have any size from 32 pixels on.
    """

    weights: str = "auto"
    "where its weights come from: auto (the hub, or random where it cannot be reached), hub, random, or a local folder \
or .safetensors file"

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The network with its weights; `classes` do not matter to it. See `ModelConfig.build`.

        Raises:
            InputError: transformers is not installed, or the weights are not there or do not fit.
        """
        state, origin = find_weights(self.weights)
        trunk = _trunk(generator)
        if state is not None:
            _load(trunk, state, origin)
        return EmbeddingNet(trunk, _WIDTHS[-1], origin=origin, pretrained=state is not None).eval()

    def without_weights(self) -> "ResNet18":
        """The same network with random weights, for those that an artifact holds."""
        return dataclasses.replace(self, weights="random")


def _trunk(generator: torch.Generator) -> nn.Module:
    transformers = needs("transformers", extra="transformers", what="the model resnet-18")
    config = transformers.ResNetConfig(
        num_channels=3,
        embedding_size=64,
        hidden_sizes=list(_WIDTHS),
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_act="relu",
        downsample_in_first_stage=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())  # transformers draws the start from torch's own generator
        trunk: nn.Module = transformers.ResNetModel(config)
    return trunk


def find_weights(weights: str) -> tuple[dict[str, Tensor] | None, str]:
    """The tensors that a setting stands for, and where they came from; none for a random start.

    Raises:
        InputError: they were asked for by name and are not there, or are a pickle.
    """
    if weights == "random":
        return None, "random start"
    if weights in ("auto", "hub"):
        path, why = _from_hub()
        if path is not None:
            return load_tensors(path), f"ImageNet weights of {REPOSITORY}"
        if weights == "hub":
            raise InputError(
                f"the weights of {REPOSITORY} cannot be had ({why}); give a local folder or .safetensors file as "
                "--model.weights, or random"
            )
        return None, f"random start: {why}"
    path = Path(weights).expanduser()
    if path.is_dir():
        path = path / _FILE
    if not path.is_file():
        raise InputError(f"model.weights: {path} does not exist; give auto, hub, random, or a folder with {_FILE}")
    if path.suffix != ".safetensors":
        raise InputError(f"model.weights: {path} is no .safetensors file; other formats can hold code and are not read")
    return load_tensors(path), f"weights of {path.name}"


def _load(trunk: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors of `ResNetModel`, or of the classifier around it."""
    kept = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if not name.startswith(_HEAD)}
    try:
        found = trunk.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise InputError(f"model.weights: {origin}: {str(error).splitlines()[-1].strip()}") from None
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
        first = ", ".join([*missing, *found.unexpected_keys][:3])
        raise InputError(
            f"model.weights: {origin} is not of a ResNet-18 as transformers names its parts ({len(missing)} tensors "
            f"missing, {len(found.unexpected_keys)} unknown: {first} ...)"
        )


def _from_hub() -> tuple[Path | None, str]:
    """The weights' file, from the hub's cache or the hub; or why there is none."""
    hub = needs("huggingface_hub", extra="transformers", what="the model resnet-18")
    cached = hub.try_to_load_from_cache(REPOSITORY, _FILE)
    if isinstance(cached, str):
        return Path(cached), ""
    if hub.constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return None, "the hub is switched off, and its cache does not hold them"
    address = hub.hf_hub_url(REPOSITORY, _FILE)
    if not _answers(address):
        return None, "the hub does not answer"
    try:
        return Path(hub.hf_hub_download(REPOSITORY, _FILE, etag_timeout=ANSWER_SECONDS)), ""
    except Exception as error:  # whatever the hub's client and the network come up with; the caller says so
        return None, f"the download failed: {type(error).__name__}"
