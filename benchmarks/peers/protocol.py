"""What a side has to offer to take part.

A side is a module of this package with `NAME`, `DISTRIBUTION` (its name in a package index), `RECIPES` (which learning
recipes of which kinds it has) and `build(task)`. A side whose package is not installed is left out and says so.
"""

import contextlib
import importlib
import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["topk", "batch-topk", "relu", "jumprelu"]
KINDS: tuple[Kind, ...] = ("topk", "batch-topk", "relu", "jumprelu")
OURS = "unweave"
OURS_FULL = "unweave (float32)"
# Ours first: the others are compared with it.
_MODULES = ("ours", "saelens", "overcomplete", "dictionary_learning", "sparsify")
_QUIET = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, eq=False)
class Task:
    """What to build.

    Attributes:
        kind: kind of dictionary.
        d_in: width of a row.
        d_sae: number of latents.
        k: active latents a row, where the kind has that.
        batch: rows a step.
        steps: steps of the whole run, for the schedules.
        rows: rows to set the start from.
        seed: decides the start.
        recipe: "default" is what a user gets who sets nothing; "tuned" is Adam at 3e-3 with a decay to zero; a side may
            have more.
        amp: mixed precision where the trainer has a switch for it.
        device: where everything lies; `rows` are there too.
        start_l0: where given, the encoder's bias is lowered until so many latents fire a row: a ReLU starts with half
            of them.
    """

    kind: Kind
    d_in: int
    d_sae: int
    k: int
    batch: int
    steps: int
    rows: Tensor
    seed: int = 0
    recipe: str = "default"
    amp: bool = False
    start_l0: float | None = None
    device: str = "cpu"

    def with_recipe(self, recipe: str) -> "Task":
        """The same with another recipe."""
        return replace(self, recipe=recipe)

    def with_amp(self) -> "Task":
        """The same with mixed precision."""
        return replace(self, amp=True)


@dataclass(frozen=True)
class Coder:
    """A dictionary as its library would use it after training: rows to codes [n, d_sae], codes to rows, directions."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    directions: Tensor


class Run(ABC):
    """A training run that is driven step by step."""

    @abstractmethod
    def step(self, x: Tensor) -> None:
        """One step of the library's own trainer: forward, backward, optimiser, decoder normalisation."""

    @abstractmethod
    def coder(self) -> Coder:
        """The dictionary as it stands; the run can go on."""

    def around(self) -> contextlib.AbstractContextManager[object]:
        """What the library's own loop sets while it trains."""
        return contextlib.nullcontext()

    def close(self) -> None:  # noqa: B027
        """Let go of what the run holds."""


@dataclass(frozen=True)
class Driver:
    """One side: its name, what it can do, and how to build a run of it."""

    name: str
    version: str
    recipes: Mapping[Kind, Sequence[str]]
    has_amp: bool
    build: Callable[[Task], Run]


def drivers(only: Sequence[str] = ()) -> list[Driver]:
    """The sides that are installed, those of `only` where it names any; prints a line for each that is not."""
    found = []
    for name in only or _MODULES:
        try:
            with quiet():
                module = importlib.import_module(f"benchmarks.peers.{name}")
        except (ImportError, RuntimeError) as error:  # torch extensions that do not fit raise RuntimeError
            print(f"skipped: {name} ({str(error).splitlines()[0]})")
            continue
        found.append(
            Driver(module.NAME, version(module.DISTRIBUTION), module.RECIPES, module.HAS_AMP, quietly(module.build))
        )
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print, warn of and look up to themselves."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def quietly(build: Callable[[Task], Run]) -> Callable[[Task], Run]:
    """The same, without a word."""

    def built(task: Task) -> Run:
        with quiet():
            return build(task)

    return built


@torch.no_grad()
def sparse_start(bias: Tensor, encode: Callable[[Tensor], Tensor], task: Task) -> None:
    """Lower an encoder's bias, all latents alike, until `task.start_l0` of them fire a row; nothing where it is None.

    Args:
        bias: changed in place.
        encode: rows to dense codes with that bias.
        task: says how many, and on which rows.
    """
    if task.start_l0 is None:
        return
    rows, start = task.rows[:512], bias.clone()

    def l0(shift: float) -> float:
        bias.copy_(start - shift)
        return float((encode(rows) > 0).sum()) / len(rows)

    low, high = 0.0, 1.0
    while l0(high) > task.start_l0:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if l0(middle) > task.start_l0 else (low, middle)
    l0(high)
