"""What a format of another library offers: it knows its own files, reads them, and writes what it can express.

A format is one file here: a class below `Format` with `@register("name")` on it. Nothing else has to be told.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.core.registry import Component, Registry
from unweave.dictionaries.base import Dictionary, DictionaryConfig, RowNorm
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.normalised import NormalisedRows
from unweave.store.artifact import read_json
from unweave.store.files import load_tensors

_LARGEST_JSON = 16 << 20


class Format(Component, ABC):
    """How one library keeps a dictionary on disk."""

    registry: ClassVar[Registry[type[Component]]] = Registry("format", "unweave.formats")

    @abstractmethod
    def recognises(self, place: Path) -> bool:
        """Whether a folder or file looks like this format: by file names and keys of JSON, never by running code.

        It is cheap, raises nothing whatever lies there, and says yes only where no other format would.
        """

    @abstractmethod
    def read(self, place: Path) -> Dictionary:
        """The dictionary that lies there, as one of Unweave's own kinds; foreign constants are folded into weights.

        Raises:
            StoreError: a file is missing, damaged, or does not fit the others.
            InputError: it holds something that no kind of Unweave computes; the message names it.
        """

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """Put a dictionary's files into an empty folder.

        Raises:
            InputError: the format has no word for such a dictionary, or is only read.
        """
        raise InputError(f"Unweave reads the format {self.kind!r} and does not write it")


def formats() -> dict[str, Format]:
    """Every format, by name."""
    return {name: named(name) for name in Format.registry.members()}


def named(name: str) -> Format:
    """A format by its name.

    Raises:
        InputError: there is none of that name.
    """
    kind = Format.registry[name]
    assert issubclass(kind, Format)
    return kind()


def peek_json(path: Path) -> dict[str, Any]:
    """A JSON object to recognise a format by; empty where the file is missing, huge or anything else."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_JSON:  # a pipe would never answer
            return {}
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        StoreError: missing, not JSON, or no object.
    """
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is no file")
    if path.is_file() and path.stat().st_size > _LARGEST_JSON:
        raise StoreError(f"{path} has {path.stat().st_size:,} bytes, too many for a configuration")
    try:
        found = read_json(path)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, StoreError) else StoreError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise StoreError(f"{path} should hold a JSON object, it holds a {type(found).__name__}")
    return found


class Weights:
    """The tensors of a foreign file, asked for by name and shape; float32, whatever they were kept in.

    Attributes:
        path: the file, for messages.
    """

    def __init__(self, tensors: Mapping[str, Any], path: Path) -> None:
        self.path = path
        self._tensors = tensors
        self._taken: set[str] = set()

    @classmethod
    def of(cls, path: Path) -> "Weights":
        """The tensors of a safetensors file.

        Raises:
            StoreError: missing, cut short or not a safetensors file.
        """
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is no file")
        return cls(load_tensors(path), path)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(str(name) for name in self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            StoreError: there is none of that name.
        """
        return tuple(self._tensor(name).shape)

    def matrix(self, name: str) -> tuple[int, int]:
        """Shape of a tensor that must have two axes, neither of them empty.

        Raises:
            StoreError: there is none of that name, or it is no matrix.
        """
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise StoreError(f"{self.path}: {name} should be a matrix, its shape is {shape}")
        return shape[0], shape[1]

    def take(self, name: str, *shape: int, infinite: bool = False) -> Tensor:
        """A tensor of that shape, as float32.

        Args:
            name: its name.
            shape: what it must be.
            infinite: whether infinite entries make sense.

        Raises:
            StoreError: it is missing, of another shape, not of numbers, or has NaN (or Inf) in it.
        """
        tensor = self._tensor(name)
        if tuple(tensor.shape) != shape:
            raise StoreError(f"{self.path}: {name} has shape {tuple(tensor.shape)} where {shape} is expected")
        if not tensor.dtype.is_floating_point:
            raise StoreError(f"{self.path}: {name} holds {tensor.dtype}, not numbers with a point")
        tensor = tensor.detach().float()
        bad = tensor.isnan() if infinite else ~tensor.isfinite()
        if bool(bad.any()):
            raise StoreError(f"{self.path}: {name} holds NaN or Inf; the file is damaged or the training failed")
        self._taken.add(name)
        return tensor

    def ignore(self, *names: str) -> None:
        """Say of tensors that they change nothing, so that `expect_all_taken` lets them pass."""
        self._taken.update(names)

    def expect_all_taken(self) -> None:
        """Every tensor was asked for: one that nobody knows may change what the dictionary computes.

        Raises:
            StoreError: some were not.
        """
        left = sorted(set(self.names()) - self._taken)
        if left:
            raise StoreError(f"{self.path} also holds {', '.join(left)}, whose meaning here is not known")

    def _tensor(self, name: str) -> Tensor:
        found = self._tensors.get(name)
        if not isinstance(found, Tensor):
            there = ", ".join(self.names()) or "nothing"
            raise StoreError(f"{self.path} has no tensor {name!r}; it holds {there}")
        return found


def in_words(dictionary: Dictionary, library: str) -> Exchange | None:
    """What a dictionary computes, for a format that takes rows as they come; None where SAELens has no words for it.

    Args:
        dictionary: to be written.
        library: whose format it is, for the message.

    Raises:
        InputError: it normalises rows one by one.
    """
    if dictionary.row_norm is not None:
        raise InputError(
            f"{library} takes rows as they come, and this dictionary normalises each by numbers of its own "
            f"({dictionary.row_norm}); of other libraries' formats, saelens has a word for that"
        )
    return dictionary.saelens()


@torch.no_grad()
def centred_bias(
    b_enc: Float[Tensor, " d_sae"], b_dec: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"]
) -> Float[Tensor, " d_sae"]:
    """The encoder's bias for rows that b_dec is subtracted from: x W + b = (x − b_dec) W + (b + b_dec W)."""
    return (b_enc.double() + b_dec.double() @ W_enc.double()).float()


@torch.no_grad()
def assemble(
    config: DictionaryConfig,
    d_in: int,
    tensors: Mapping[str, Tensor],
    *,
    hook_name: str = "",
    origin: Mapping[str, Any] | None = None,
    row_norm: RowNorm | None = None,
) -> Dictionary:
    """A frozen dictionary from its configuration and its state.

    Args:
        config: one of Unweave's kinds; its d_sae is that of the tensors, whose shapes are checked already.
        d_in: width of a row.
        tensors: the whole state, by name.
        hook_name: dotted name of the module whose output the rows are, where it is known.
        origin: what is known of where it came from, plain JSON values: `format`, `model_name`, ...
        row_norm: how each row is normalised before it is encoded, where it is.

    Raises:
        InputError: rows of this width cannot be normalised so.
    """
    dictionary = config.build(d_in)
    dictionary.load_state_dict(dict(tensors))
    if row_norm is not None:
        dictionary = NormalisedRows(dictionary, row_norm)
    dictionary.hook_name = hook_name
    dictionary.origin = dict(origin or {})
    return dictionary.to_inference()
