"""A user's own network."""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn

from unweave.core.errors import InputError, did_you_mean
from unweave.core.framing import Filter, Fit, Framing
from unweave.core.registry import register
from unweave.models.adopted import VisionNet
from unweave.models.base import ModelConfig
from unweave.models.preprocess import Preprocess, steps_for
from unweave.store.files import load_tensors

_LOG = logging.getLogger(__name__)
_NAMED = 6


@register("custom")
@dataclass(frozen=True, kw_only=True)
class Custom(ModelConfig):
    """Any `torch.nn.Module`: a callable that makes it, and optionally a file with its state dict.

    With `size`, `mean` or `std` images in [0, 1] of any size are resized and then normalised, (x − mean) / std, by a
    first layer `preprocess`; without them the network sees images as they are. A module with methods `tokenize` and
    `tokens` reads texts.
    """

    factory: str
    "what makes the module: package.module:callable, the current folder searched too, or path/to/file.py:callable"
    weights: Path | None = None
    "state dict to load into it: .safetensors, or a checkpoint that torch reads with weights_only=True"
    arguments: str = "{}"
    "keyword arguments of the callable, as a JSON object"
    size: int | tuple[int, int] | None = None
    "height and width that images are resized to; the side alone for a square"
    fit: Fit = "crop"
    "crop: the shorter side is resized, then the centre is cut; stretch: the whole image is resized"
    resample: Filter = "bilinear"
    "filter of the resize"
    mean: tuple[float, ...] = ()
    "subtracted from images in [0, 1], one number or one a channel"
    std: tuple[float, ...] = ()
    "they are then divided by it, one number or one a channel"

    reads_text = True

    def __post_init__(self) -> None:
        if self.size is not None:
            self._framing(self.size)
        if not all(self.std):
            raise InputError("model.std must not hold 0: the images are divided by it")
        if len({len(numbers) for numbers in (self.mean, self.std) if len(numbers) > 1}) > 1:
            raise InputError(f"model.mean has {len(self.mean)} numbers, model.std {len(self.std)}: give one a channel")

    def _framing(self, size: int | tuple[int, int]) -> Framing:
        height, width = (size, size) if isinstance(size, int) else size
        return Framing(height=height, width=width, fit=self.fit, resample=self.resample)

    def framing(self) -> Framing | None:
        """How image files are best read for it, where it has a size."""
        return None if self.size is None else self._framing(self.size)

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The module, its weights loaded; shape and classes do not matter to it.

        Raises:
            InputError: the callable cannot be imported, does not take the arguments or makes no module, or the weights
                do not fit.
        """
        try:
            arguments = json.loads(self.arguments)
        except json.JSONDecodeError as error:
            raise InputError(f"model.arguments is no JSON object: {error}") from None
        if not isinstance(arguments, dict):
            raise InputError(f"model.arguments must be a JSON object of keyword arguments, got {self.arguments}")
        make = import_callable(self.factory)
        _check_arguments(make, arguments, self.factory)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())  # what it draws its start from is torch's own generator
            try:
                module = make(**arguments)
            except Exception as error:  # the user's code may fail in any way; --debug shows where
                raise InputError(f"{self.factory} failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"{self.factory} gave a {type(module).__name__}, not a torch.nn.Module")
        if self.weights is not None:
            load_weights(module, self.weights)
        if self.size is None and not self.mean and not self.std:
            return module
        channels = max(len(self.mean), len(self.std))
        return VisionNet(
            module, Preprocess(steps_for(self.framing(), self.mean, self.std), channels if channels > 1 else 0)
        )

    def located(self) -> "Custom":
        """With the file of code and that of weights in full."""
        file, _, name = self.factory.rpartition(":")
        factory = f"{Path(file).expanduser().resolve()}:{name}" if file.endswith(".py") else self.factory
        weights = None if self.weights is None else self.weights.expanduser().resolve()
        return dataclasses.replace(self, factory=factory, weights=weights)

    def untrained(self) -> "Custom | None":
        """The same network without its weights; None where the callable itself may load some."""
        return None if self.weights is None else dataclasses.replace(self, weights=None)


def _check_arguments(make: Callable[..., Any], arguments: Mapping[str, Any], spec: str) -> None:
    try:
        signature = inspect.signature(make)
    except ValueError:  # some callables written in C have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{spec}{signature} does not take model.arguments {dict(arguments)}: {error}") from None


def import_callable(spec: str) -> Callable[..., Any]:
    """The object that `package.module:name` or `path/to/file.py:name` points at.

    Raises:
        InputError: no such module or file, or no such name in it.
    """
    module_name, _, name = spec.rpartition(":")
    is_file = module_name.endswith(".py")
    if not module_name or not name or (module_name.startswith(".") and not is_file):
        raise InputError(f"{spec!r} is not of the form package.module:callable or path/to/file.py:callable")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = _import_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    except InputError:
        raise
    except Exception as error:  # importing runs the user's code
        what = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError) else str(error)
        raise InputError(f"cannot import {module_name!r} of {spec!r}: {what}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module_name!r} has no {part!r}; {did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{spec!r} is a {type(found).__name__}, not callable")
    return cast("Callable[..., Any]", found)


def _import_file(path: Path) -> Any:
    """The module of a file, under a name of its own; files beside it can be imported by it."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    name = f"{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what defines classes looks its own module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict from a safetensors file or a torch checkpoint (which may hold it under `state_dict`).

    A prefix that all names share, such as `module.` of a parallel training, is left out where the rest fits; a log line
    says so.

    Raises:
        InputError: the file is missing, unreadable or unsafe, or its tensors do not fit the module.
    """
    if path.suffix == ".safetensors":
        state: dict[str, Any] = dict(load_tensors(path))
    else:
        state = _read_checkpoint(path)
    state = _without_prefix(state, set(module.state_dict()), path)
    try:
        found = module.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} does not fit {type(module).__name__}: {str(error).splitlines()[-1].strip()}"
        ) from None
    if found.missing_keys or found.unexpected_keys:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
            for what, names in (("are missing", found.missing_keys), ("are not of it", found.unexpected_keys))
            if names
        ]
        raise InputError(f"{path} does not fit {type(module).__name__}: of its tensors {' and '.join(parts)}")


def _without_prefix(state: dict[str, Any], wanted: set[str], path: Path) -> dict[str, Any]:
    """The state dict without a prefix that all its names share, if it fits then and does not before."""
    left, prefix = state, ""
    while left and set(left) != wanted:
        first = next(iter(left)).partition(".")[0] + "."
        if not all(name.startswith(first) and len(name) > len(first) for name in left):
            return state
        left, prefix = {name.removeprefix(first): value for name, value in left.items()}, prefix + first
    if prefix and left:
        _LOG.warning("%s: all names begin with %s, which is left out", path, prefix)
        return left
    return state


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors (it would run code when read) or is damaged; save the state dict alone, "
            "best as safetensors"
        ) from None
    except Exception as error:  # a damaged pickle makes its reader fail in any way
        raise InputError(f"{path} is no readable torch checkpoint: {error}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            raise InputError(f"{path} holds {name!r}: {type(value).__name__}, which belongs in no state dict")
    return loaded
