"""Rows of several sources brought into one order, example by example, and parted into two halves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.store.activations import Activations
from unweave.store.rows import TensorRows

Rows = Activations | Tensor
_FEWEST = 8


@dataclass(frozen=True, eq=False)
class Layout:
    """Which row is which, the same for all sources of a comparison.

    Attributes:
        examples: number of examples.
        each: rows of an example.
        row: place of each example's rows in the source [examples, each], examples by increasing index.
        key: example and position of those rows, to compare sources by.
        label: class of each example, where it is known.
    """

    examples: int
    each: int
    row: Int64[np.ndarray, "examples each"]
    key: Int64[np.ndarray, "examples each two"]
    label: Int64[np.ndarray, " examples"] | None


def layout(name: str, source: Rows) -> Layout:
    """Find out which row belongs to which example.

    Raises:
        InputError: examples have different numbers of rows, or there are too few.
    """
    if isinstance(source, Tensor):
        n = TensorRows(source, name=name).n
        place = torch.arange(n)
        example, position, label = place, torch.zeros_like(place), None
    else:
        example, position, label = source.example, source.position, source.label
    order = np.lexsort((position.numpy(), example.numpy()))
    unique, counts = np.unique(example.numpy(), return_counts=True)
    if counts.min() != counts.max():
        raise InputError(
            f"{name}: an example has {counts.min()} to {counts.max()} rows; only sources with as many for each can be "
            "compared: capture with rows='pool' or 'cls'"
        )
    if len(unique) < _FEWEST:
        raise InputError(f"{name} has {len(unique)} examples; a comparison needs at least {_FEWEST}")
    shape = (len(unique), int(counts[0]))
    keys = np.stack([example.numpy()[order], position.numpy()[order]], 1)
    row = np.reshape(order, shape)
    of_example = None if label is None else label.numpy()[row[:, 0]]
    return Layout(*shape, row, keys.reshape(*shape, 2), of_example)


def check_aligned(layouts: Mapping[str, Layout]) -> None:
    """Hold sources to the same examples, positions and labels.

    Raises:
        InputError: two of them differ; the message names the first place where they do.
    """
    (first, one), *others = layouts.items()
    for name, other in others:
        if (one.examples, one.each) != (other.examples, other.each):
            raise InputError(
                f"{first} has {one.examples:,} examples of {one.each} rows, {name} has {other.examples:,} of "
                f"{other.each}: only the same rows of the same examples can be compared"
            )
        if len(differ := np.argwhere((one.key != other.key).any(-1))):
            place = tuple(differ[0])
            here, there = (f"example {key[place][0]}, position {key[place][1]}" for key in (one.key, other.key))
            raise InputError(f"{first} has a row of {here} where {name} has one of {there}: capture the same examples")
        if one.label is None or other.label is None:
            continue
        if len(wrong := np.flatnonzero(one.label != other.label)):
            at = int(wrong[0])
            raise InputError(
                f"example {one.key[at, 0, 0]} has label {one.label[at]} in {first} and {other.label[at]} in {name}: "
                "they are not the same examples"
            )


def gather(name: str, source: Rows, order: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
    """All rows of a source in the given order, float32.

    Raises:
        InputError: a row holds NaN or Inf.
    """
    rows = source.detach().cpu() if isinstance(source, Tensor) else source.rows(0, source.n)
    values = rows[torch.from_numpy(order)].float().numpy()
    if not np.isfinite(values.sum(dtype=np.float64)) and len(bad := np.flatnonzero(~np.isfinite(values).all(1))):
        raise InputError(f"{name} has NaN or Inf in {len(bad):,} rows, first in row {int(order[bad].min()):,}")
    return values


@dataclass(frozen=True, eq=False)
class Order:
    """Another order of a comparison's rows, and of the first `near` of them among themselves."""

    rows: Int64[np.ndarray, " n"]
    near: Int64[np.ndarray, " near"]


@dataclass(frozen=True)
class Halves:
    """Rows in comparison's order: examples shuffled, those of the first half before those of the second.

    What is chosen (which units belong together, a penalty, a map) is chosen on the first and measured on the second.
    """

    examples: int
    each: int
    near_examples: int

    @property
    def first(self) -> int:
        """Rows of the first half."""
        return self.examples // 2 * self.each

    @property
    def near(self) -> int:
        """Rows whose neighbours are looked up."""
        return self.near_examples * self.each

    def shuffled(self, generator: np.random.Generator) -> Order:
        """Examples in random order, each inside its half, an example's rows together."""
        return self._order(generator.permutation)

    def other_example(self, generator: np.random.Generator) -> Order:
        """Examples in an order in which none stays in its place, each inside its half."""

        def cycle(n: int) -> np.ndarray:
            ring = generator.permutation(n)
            order = np.empty(n, np.int64)
            order[ring] = np.roll(ring, 1)
            return order

        return self._order(cycle)

    def _order(self, permute: Callable[[int], np.ndarray]) -> Order:
        half = self.examples // 2
        examples = np.concatenate([permute(half), half + permute(self.examples - half)])
        return Order(self._rows(examples), self._rows(permute(self.near_examples)))

    def _rows(self, examples: np.ndarray) -> Int64[np.ndarray, " n"]:
        return np.asarray((examples[:, None] * self.each + np.arange(self.each)).ravel(), np.int64)
