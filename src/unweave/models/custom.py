"""A user's own network."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn

from unweave.core.errors import InputError, did_you_mean
from unweave.core.registry import register
from unweave.models.base import ModelConfig
from unweave.store.files import load_tensors


@register("custom")
@dataclass(frozen=True, kw_only=True)
class Custom(ModelConfig):
    """Any `torch.nn.Module`: a callable that makes it, and optionally a file with its state dict."""

    factory: str
    "what makes the module, as package.module:callable; the current folder is searched too"
    weights: Path | None = None
    "state dict to load into it: .safetensors, or a checkpoint that torch reads with weights_only=True"
    arguments: str = "{}"
    "keyword arguments of the callable, as a JSON object"

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
        return module


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
    """The object that `package.module:name` points at.

    Raises:
        InputError: no such module, or no such name in it.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise InputError(f"{spec!r} is not of the form package.module:callable")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
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


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict from a safetensors file or a torch checkpoint (which may hold it under `state_dict`).

    Raises:
        InputError: the file is missing, unreadable or unsafe, or its tensors do not fit the module.
    """
    if path.suffix == ".safetensors":
        state: dict[str, Any] = dict(load_tensors(path))
    else:
        state = _read_checkpoint(path)
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} does not fit {type(module).__name__}: {str(error).splitlines()[-1].strip()}"
        ) from None


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
