"""Tokens that latents fire on, beside how often each would come up by its frequency."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from unweave.core.errors import InputError
from unweave.metrics.entries import Entries

_MOST_LATENTS_AT_ONCE = 256


class TokenRows:
    """The token of each row.

    Args:
        tokens: of each captured example, in the order of the data set.
        example: of each row.
        position: of each row, counted over the tokens.

    Raises:
        InputError: an example that was captured has no tokens, or fewer than it has rows.
    """

    def __init__(
        self, tokens: Sequence[Sequence[str]], example: Int64[np.ndarray, " n"], position: Int64[np.ndarray, " n"]
    ) -> None:
        lengths = np.array([len(one) for one in tokens], np.int64)
        if len(example) and int(example.max()) >= len(tokens):
            raise InputError(
                f"example {int(example.max())} was captured, but there are tokens of {len(tokens):,} texts"
            )
        if len(example) and (short := np.flatnonzero(position >= lengths[example])).size:
            row = int(short[0])
            raise InputError(
                f"text {int(example[row])} has {int(lengths[example[row]])} tokens, but a row of position "
                f"{int(position[row])} was captured of it: give the tokens as the model's tokenizer split the text"
            )
        names: dict[str, int] = {}
        flat = np.fromiter((names.setdefault(token, len(names)) for one in tokens for token in one), np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = tokens
        self.names = list(names)
        self.of_row = flat[starts[example] + position] if len(example) else np.zeros(0, np.int64)

    @property
    def frequency(self) -> Float64[np.ndarray, " names"]:
        """Share of each token among all rows."""
        return np.bincount(self.of_row, minlength=len(self.names)) / max(len(self.of_row), 1)


def top_token_columns(entries: Entries, rows: TokenRows, most: int) -> dict[str, Any]:
    """For each latent the tokens that exceed their frequency most: count, share of its rows, and share expected.

    Ranked by share − expected, so that neither common tokens nor rare accidents come first.
    """
    frequency = rows.frequency
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("latent", "rank", "token", "count")}
    for first in range(0, entries.d_sae, _MOST_LATENTS_AT_ONCE):
        last = min(first + _MOST_LATENTS_AT_ONCE, entries.d_sae)
        part = slice(int(entries.offsets[first]), int(entries.offsets[last]))
        latent = np.repeat(np.arange(first, last), entries.counts[first:last])
        key, count = np.unique(latent * len(rows.names) + rows.of_row[entries.row[part]], return_counts=True)
        latent, token = np.divmod(key, len(rows.names))
        excess = count / entries.counts[latent] - frequency[token]
        order = np.lexsort((token, -excess, latent))
        rank = np.arange(len(order)) - np.searchsorted(latent[order], latent[order])
        kept = order[rank < most]
        for name, values in zip(columns, (latent[kept], rank[rank < most], token[kept], count[kept]), strict=True):
            columns[name].append(values)
    latent, rank, token, count = (np.concatenate(columns[name]) for name in columns)
    return {
        "latent": latent.astype(np.int32),
        "rank": rank.astype(np.int32),
        "token": [rows.names[one] for one in token.tolist()],
        "count": count,
        "share": count / np.maximum(entries.counts[latent], 1),
        "expected": frequency[token],
    }
