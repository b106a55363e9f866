"""Steering: a model whose latents are moved, for as long as a block lasts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side
from unweave.models.replace import replacing, resolve_one
from unweave.models.rows import RowMeaning, to_rows, with_rows
from unweave.steer.edits import Edits, apply_edits, read_edits
from unweave.store.layout import Layout

_CODE_BYTES = 64 << 20


class Steering:
    """A model being steered.

    Attributes:
        at: dotted name of the module whose tensor is edited.
        edits: what is done to its latents.
        calls: tensors that passed so far.
        rows: rows of them.
        changed: rows whose codes the edits changed.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        at: str,
        edits: Edits,
        rows: RowMeaning,
        *,
        keep_error: bool,
        layout: Layout | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        self.at, self.edits = at, edits
        self.calls = self.rows = self.changed = 0
        self._dictionary, self._meaning, self._keep_error = dictionary, rows, keep_error
        self._layout = layout
        self._positions = None if positions is None else torch.tensor(list(positions), dtype=torch.int64)
        self._dtype = next((w.dtype for w in dictionary.state_dict().values() if w.is_floating_point()), torch.float32)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor with its latents edited; the tensor itself where that changes nothing."""
        read = to_rows(
            tensor,
            self._meaning,
            examples=len(tensor),
            name=self.at,
            layout=self._layout,
            width=self._dictionary.d_in,
        )
        rows = read.values
        check_width(self._dictionary, rows.shape[1], self.at, self._meaning)
        own = rows.to(self._dictionary.device, self._dtype)
        most = max(1, _CODE_BYTES // (4 * self._dictionary.d_sae))
        parts = [self._edited(part) for part in own.split(most)]
        made, differs = (torch.cat(both).to(tensor.device) for both in zip(*parts, strict=True))
        if self._positions is not None:
            chosen = torch.isin(read.position, self._positions).to(tensor.device)
            differs = differs & chosen
            made = made if self._keep_error else torch.where(chosen.unsqueeze(1), made, rows.to(made))
        changed = int(differs.sum())
        self.calls, self.rows, self.changed = self.calls + 1, self.rows + len(rows), self.changed + changed
        if not self._keep_error:
            return with_rows(tensor, made, self._meaning, layout=self._layout)
        if not changed:
            return tensor
        # Rows that nothing moves keep their bits. The sum is taken in the wider of the two precisions.
        new = torch.where(differs.unsqueeze(1), rows + made, rows)
        return with_rows(tensor, new, self._meaning, layout=self._layout)

    def _edited(self, rows: Float[Tensor, "m d_in"]) -> tuple[Float[Tensor, "m d_in"], Bool[Tensor, " m"]]:
        """What the edits add to rows (without `keep_error` the new rows), and which of them they change."""
        codes = self._dictionary.encode(rows)
        edited = apply_edits(codes, self.edits)
        new = self._dictionary.reconstruct(edited, rows)
        made = new - self._dictionary.reconstruct(codes, rows) if self._keep_error else new
        return made, (edited != codes).any(-1)

    def __repr__(self) -> str:
        edits = ", ".join(f"{edit.latent}: {edit}" for edit in self.edits)
        return f"Steering({self.at!r}, {{{edits}}}, {self.changed:,} of {self.rows:,} rows changed)"


@contextmanager
def steer(
    model: nn.Module,
    sae: Dictionary,
    *,
    at: str | None = None,
    edits: Mapping[Any, Any],
    rows: RowMeaning = "flatten",
    side: Side = "output",
    keep_error: bool = True,
    layout: Layout | None = None,
    positions: Sequence[int] | None = None,
) -> Iterator[Steering]:
    """Inside the block, the model runs with latents moved; afterwards it is what it was, whatever happened inside.

    With f the codes of a row x and f' the edited ones, the model goes on with x' = x + decode(f') − decode(f): what the
    dictionary misses of x stays in it, and rows whose codes no edit changes keep every bit. Without `keep_error` it
    goes on with x' = decode(f'); no edits at all then splice the reconstruction in. A dictionary that normalises rows
    one by one decodes both in the scale of the row itself.

    Any module can be steered: rows, tokens, feature maps, tuples, any precision, the dictionary on another device.
    Gradients flow. Blocks may be nested, at several hook points or at the same one.

    Args:
        model: any module.
        sae: a dictionary of the hook point's rows.
        at: dotted name of the module; by default the one that the dictionary was trained on.
        edits: an operation for each latent: `{17: ("set", 5.0), 3: "ablate", 4: ("clamp", 0, 2), 9: ("scale", 2),
            5: ("add", 1.5), 8: "keep"}`. Where any latent is kept, those that no edit names become 0.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input, as it was captured.
        keep_error: whether what the dictionary misses of a row stays in it.
        layout: how positions lie in an example, as the store says (`activations.layout`); tokens that gave no rows stay
            as they are.
        positions: rows that are edited, for rows by position: one patch, say `[layout.position(3, 5)]`; by default all.

    Yields:
        A `Steering`, which counts the rows that the edits changed.

    Raises:
        InputError: an unknown hook point or latent, an edit that cannot be, rows of another width; inside, a pass that
            calls the hook point never or more than once.
    """
    name = hook_point(model, sae, at)
    steering = Steering(
        sae, name, read_edits(edits, sae.d_sae), rows, keep_error=keep_error, layout=layout, positions=positions
    )
    with replacing(model, {name: steering}, side=side):
        yield steering


def hook_point(model: nn.Module, sae: Dictionary, at: str | None) -> str:
    """The module that is meant: by default the one that the dictionary was trained on.

    Raises:
        InputError: the model has none of that name, or neither says one.
    """
    if at is None and not sae.hook_name:
        raise InputError("the dictionary does not know its hook point; name the module, at=...")
    return resolve_one(model, sae.hook_name if at is None else at)


def check_width(sae: Dictionary, width: int, at: str, rows: RowMeaning) -> None:
    """Check that rows are as wide as the dictionary's.

    Raises:
        InputError: they are not.
    """
    if width != sae.d_in:
        raise InputError(
            f"{at!r} gives rows of width {width} with rows={rows!r}, the dictionary takes {sae.d_in}: give the hook "
            "point and the meaning of rows that it was trained on"
        )
