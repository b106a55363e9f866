"""Files of other libraries, made without them: pickles of classes that are not installed, and how results compare."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def standing_in(**classes: type) -> Iterator[None]:
    """Make classes importable under dotted names for as long as they are pickled.

    Args:
        classes: the class for each dotted name, with `__` in place of the dots.
    """
    made: list[str] = []
    for name, cls in classes.items():
        place, _, last = name.replace("__", ".").rpartition(".")
        parts = place.split(".")
        for end in range(1, len(parts) + 1):
            package = ".".join(parts[:end])
            if package not in sys.modules:
                sys.modules[package] = types.ModuleType(package)
                made.append(package)
        cls.__module__, cls.__qualname__, cls.__name__ = place, last, last
        setattr(sys.modules[place], last, cls)
    try:
        yield
    finally:
        for package in made:
            del sys.modules[package]


def random_tensors(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Normal tensors by name; dots in names are written as two underscores."""
    generator = torch.Generator().manual_seed(seed)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def random_rows(d_in: int, seed: int = 0) -> Tensor:
    """Rows that lie some way from zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(50, d_in, generator=generator) + torch.linspace(-2, 3, d_in)


def assert_computes(dictionary: Any, rows: Tensor, codes: Tensor, decoded: Tensor) -> None:
    """Codes and reconstruction are those, to 1e-5 of the largest value."""
    with torch.no_grad():
        for ours, expected in ((dictionary.encode(rows), codes), (dictionary.reconstruct(codes, rows), decoded)):
            assert ours.shape == expected.shape
            size = float(expected.abs().max()) or 1.0
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * size)
