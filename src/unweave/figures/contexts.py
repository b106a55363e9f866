"""Tokens of a text under a latent's values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from unweave.figures.style import QUIET, WARM


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """A stretch of a text around its strongest token.

    Attributes:
        tokens: as the model's tokenizer splits it.
        values: at each of them; NaN where there is no row.
        strongest: place of the strongest among them.
        value: there.
        before: whether the text begins before them.
        after: whether it goes on after them.
    """

    tokens: list[str]
    values: Float[np.ndarray, " m"]
    strongest: int
    value: float
    before: bool = False
    after: bool = False


@dataclass(frozen=True, kw_only=True)
class TopToken:
    """A token that a latent fires on more than its frequency would have it.

    Attributes:
        token: the text of it.
        count: rows of the token on which it fires.
        share: of all rows on which it fires.
        expected: the token's share of all rows, which is what a latent that does not look would have.
    """

    token: str
    count: int
    share: float
    expected: float


def around(tokens: Sequence[str], values: Float[np.ndarray, " m"], strongest: int, *, reach: int = 12) -> Context:
    """Up to `reach` tokens before and after the strongest one."""
    first, last = max(0, strongest - reach), min(len(tokens), strongest + reach + 1)
    return Context(
        tokens=list(tokens[first:last]),
        values=values[first:last],
        strongest=strongest - first,
        value=float(values[strongest]),
        before=first > 0,
        after=last < len(tokens),
    )


_LINE = 0.15  # inches


def draw_contexts(
    axis: Axes, contexts: Sequence[Context], box: tuple[float, float, float, float], largest: float, *, size: float
) -> None:
    """Contexts line by line in axes that run in inches from the top: the stronger the token, the warmer its ground."""
    left, top, right, bottom = box
    letter = size / 72 * 0.61
    room = int((right - left) / letter)
    for line, one in enumerate(contexts[: int((bottom - top) / _LINE)]):
        y = top + (line + 0.5) * _LINE
        x = left
        for text, value in _fitting(one, room):
            wide = letter * len(text)
            if value > 0:
                alpha = 0.15 + 0.7 * min(value / (largest or 1.0), 1.0)
                axis.fill_between([x, x + wide], y - _LINE / 2, y + _LINE / 2, color=WARM, alpha=alpha, lw=0)
            ink = QUIET if not value > 0 else "black"
            axis.text(x, y, text, size=size, family="monospace", va="center", color=ink, parse_math=False)
            x += wide


def _fitting(one: Context, room: int) -> list[tuple[str, float]]:
    """As many tokens around the strongest as there is room for, with a blank after each."""
    pairs = [(f"{shown(token)} ", float(value)) for token, value in zip(one.tokens, one.values, strict=True)]
    first, last = one.strongest, one.strongest + 1
    used = len(pairs[first][0])
    while True:
        grown = used
        for candidate in (last, first - 1):
            if 0 <= candidate < len(pairs) and used + len(pairs[candidate][0]) <= room:
                used += len(pairs[candidate][0])
                first, last = min(first, candidate), max(last, candidate + 1)
        if grown == used:
            return pairs[first:last]


def shown(token: str) -> str:
    """A token as it can be read: line ends and signs that are no letters made visible."""
    plain = token.replace("\n", "⏎").replace("\t", "⇥").replace("Ġ", "·").replace("▁", "·").replace("Ċ", "⏎")
    return "".join(sign if sign.isprintable() else "�" for sign in plain) or "∅"
