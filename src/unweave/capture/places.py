"""The layouts of the hook points of one capture: found at the first batch, held against the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.models.places import Prefix, check_layout, find_layout
from unweave.models.rows import RowMeaning
from unweave.store.layout import Layout


class Layouts:
    """How positions lie in the examples, hook point by hook point.

    Args:
        model: the network.
        meaning: what a row is.
        given: the layout of all of them, where the user says it.
        prefix: whether tokens before those of an image's patches give rows.

    Raises:
        InputError: a layout is given for rows that have no positions, or it says other than `prefix`.
    """

    def __init__(self, model: nn.Module, meaning: RowMeaning, given: Layout | None, prefix: Prefix) -> None:
        if given is not None and meaning != "position":
            raise InputError(f"layout= is for rows by position, not rows={meaning!r}")
        if given is not None and prefix == "drop":
            given = dataclasses.replace(given, prefix_dropped=given.prefix > 0)
        self._model, self._meaning, self._given, self._prefix = model, meaning, given, prefix
        self._found: dict[str, Layout] = {}

    def of(self, name: str, tensor: Tensor, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Layout:
        """The layout of what a hook point gave for one batch.

        Raises:
            InputError: it is not the one that is given, it is ambiguous, or it has another prefix than before.
        """
        if self._given is not None:
            check_layout(self._given, tensor, name)
            return self._given
        here = find_layout(self._model, name, tensor, self._meaning, inputs, keywords, prefix=self._prefix)
        before = self._found.setdefault(name, here)
        if before != here:
            if (before.prefix, before.channels_last) != (here.prefix, here.channels_last):
                raise InputError(
                    f"{name!r} gives {list(tensor.shape)}, and its places lie in another way than in the first batch "
                    f"({here} after {before}); give images of one size, or say how they lie, with layout="
                )
            self._found[name] = dataclasses.replace(before, kind="tokens")  # images of several sizes have no one grid
        return here

    def restore(self, name: str, found: Sequence[Layout]) -> None:
        """Go on with what earlier batches have shown, piece by piece."""
        if self._given is None and found:
            same = all(layout == found[0] for layout in found)
            self._found[name] = found[0] if same else dataclasses.replace(found[0], kind="tokens")

    def settle(self, ranks: Ranks) -> None:
        """Bring together what several processes found, each in its batches."""
        for found in ranks.gather(self._found):
            for name, layout in found.items():
                if self._found.setdefault(name, layout) != layout:
                    self._found[name] = dataclasses.replace(layout, kind="tokens")

    def known(self, name: str) -> Layout | None:
        """What was given or found."""
        return self._given or self._found.get(name)
