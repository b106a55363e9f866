"""Networks whose tokens do not come row by row: Hiera keeps those of a window together, and pools by it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_BEFORE = ("embed", "patch")
"""Names of the modules that come before the tokens are put into that order contain one of these."""


def order_of(model: nn.Module, name: str, height: int, width: int) -> tuple[int, ...]:
    """The place, counted row by row, of each token that a hook point gives; empty where they come row by row.

    Hiera (Ryali et al., 2023, https://arxiv.org/abs/2306.00989) unrolls its patches once, so that those which are to
    be pooled lie the same distance apart; each pooling takes one step of that back.

    Args:
        model: the network.
        name: dotted name of the hook point.
        height: of the grid that the hook point's tokens make.
        width: of the same.
    """
    if any(word in name for word in _BEFORE):
        return ()
    for module in model.modules():
        unrolled = _unrolled(module)
        if unrolled is not None:
            return _order(*unrolled, height, width)
    return ()


def _unrolled(module: Any) -> tuple[list[int], list[Sequence[int]]] | None:
    """Sides of the grid of patches, and the strides by which it is unrolled, if this module is one that does so."""
    kind = type(module).__name__
    if kind == "Unroll":  # as timm and the authors have it
        return list(module.size), list(module.schedule)
    if kind == "HieraEncoder":  # as transformers has it
        schedule, size = module.schedule[0]
        return list(size), list(schedule)
    return None


def _order(size: Sequence[int], schedule: Sequence[Sequence[int]], height: int, width: int) -> tuple[int, ...]:
    sides = list(size)
    for done in range(len(schedule) + 1):
        if sides == [height, width]:
            places = _unroll(torch.arange(height * width).view(1, height, width), schedule[done:])
            rows = tuple(places.tolist())
            return () if rows == tuple(range(len(rows))) else rows
        if done < len(schedule):
            sides = [side // step for side, step in zip(sides, schedule[done], strict=True)]
    return ()


def _unroll(places: torch.Tensor, schedule: Sequence[Sequence[int]]) -> torch.Tensor:
    """Places [1, h, w] in the order in which they are kept: those that differ by less than a stride first."""
    for down, across in schedule:
        b, h, w = places.shape
        cut = places.view(b, h // down, down, w // across, across)
        places = cut.permute(0, 2, 4, 1, 3).reshape(b * down * across, h // down, w // across)
    return places.flatten()
