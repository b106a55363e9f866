"""Moving rows along directions, and what the model answers then."""

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.places import mask_of
from unweave.models.rest import OnBatch
from unweave.models.rows import RowMeaning, Rows, to_rows, with_rows
from unweave.steer.context import check_width
from unweave.store.layout import Layout

_CODE_BYTES = 64 << 20
_VALUES_AT_ONCE = 1 << 21


class Opened:
    """One batch at its hook point: rows, codes, and the answers to rows that were moved.

    Attributes:
        rows: rows [m, d_in] of the batch, in the dictionary's precision, on its device.
        scales: how many times its direction one unit of a latent adds to each row [m].
        example: place in the batch of the example that each row belongs to.
        position: of each row in its example.
        answers: the model's own answers [b, classes], float64 on the CPU.
    """

    def __init__(
        self, batch: OnBatch, dictionary: Dictionary, meaning: RowMeaning, name: str, layout: Layout | None = None
    ) -> None:
        self._mask, self._layout = mask_of(batch.inputs), layout
        self._width = dictionary.d_in
        read = self._read(batch.values, meaning, self._mask, name)
        check_width(dictionary, read.values.shape[1], name, meaning)
        self.example, self.position = read.example, read.position
        if batch.answers.ndim != 2 or not batch.answers.is_floating_point():
            raise InputError(f"the model answers with {list(batch.answers.shape)}; logits are floats [b, classes]")
        self._batch, self._dictionary, self._meaning, self._own = batch, dictionary, meaning, read.values
        self.per_example = read.per_example
        self.rows = in_its_precision(dictionary, read.values)
        self.scales = dictionary.scales(self.rows).squeeze(1)
        self.answers = batch.answers.double().cpu()

    def _read(self, values: Tensor, meaning: RowMeaning, mask: Tensor | None, name: str) -> Rows:
        options = {"layout": self._layout, "mask": mask, "width": self._width}
        return to_rows(values, meaning, examples=len(values), name=name, **options)  # type: ignore[arg-type]

    def _with(self, values: Tensor, rows: Float[Tensor, "m d_in"], mask: Tensor | None) -> Tensor:
        return with_rows(values, rows, self._meaning, layout=self._layout, mask=mask)

    def __len__(self) -> int:
        return len(self._batch.inputs)

    def codes(self) -> Float[Tensor, "m d_sae"]:
        """Codes of the rows, dense."""
        return codes_of(self._dictionary, self.rows)

    def answers_to(self, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "b classes"]:
        """Answers with other rows in place of the batch's own, float64 on the CPU."""
        return self._batch(self._with(self._batch.values, rows, self._mask)).double().cpu()

    def answers_to_moves(
        self, lengths: Float[Tensor, "v m"], directions: Float[Tensor, "v d_in"]
    ) -> Float[Tensor, "v b classes"]:
        """Answers after v moves of all rows, each along one direction by a length of its own for each row.

        They come in the model's precision, at least float32, on the CPU.
        """
        values = self._batch.values
        device, b = values.device, len(values)
        lengths, directions = lengths.to(device), directions.to(device)
        found = []
        for part in torch.arange(len(lengths)).split(max(1, _VALUES_AT_ONCE // values.numel())):
            count = len(part)
            moved = self._own + lengths[part].unsqueeze(2) * directions[part].unsqueeze(1)
            repeated = values.repeat(count, *[1] * (values.ndim - 1))
            mask = None if self._mask is None else self._mask.repeat(count, 1)
            new = self._with(repeated, moved.flatten(0, 1), mask)
            found.append(self._batch(new, torch.arange(b, device=device).repeat(count)).unflatten(0, (count, b)))
        answers = torch.cat(found).cpu()
        return answers.to(torch.promote_types(answers.dtype, torch.float32))

    def answers_to_single_moves(
        self,
        row: Tensor,
        copy: Tensor,
        example: Tensor,
        lengths: Float[Tensor, " m"],
        directions: Float[Tensor, "m d_in"],
    ) -> Float[Tensor, "p classes"]:
        """Answers to p copies of examples, in each of which some rows are moved.

        Args:
            row: of each move [m], among the batch's own rows.
            copy: that each move [m] is in.
            example: of each copy [p], its place in the batch.
            lengths: of each move.
            directions: of each move.
        """
        device = self._batch.values.device
        values = self._batch.values[example.to(device)]
        mask = None if self._mask is None else self._mask[example.to(self._mask.device)]
        rows = self._read(values, self._meaning, mask, "the copies").values
        moved = rows.to(torch.promote_types(rows.dtype, lengths.dtype), copy=True)
        moved[self._places_in_copies(row.cpu(), copy.cpu(), example.cpu()).to(device)] += (
            lengths.unsqueeze(1) * directions
        ).to(moved)
        return self._batch(self._with(values, moved, mask), example.to(device)).double().cpu()

    def _places_in_copies(self, row: Tensor, copy: Tensor, example: Tensor) -> Tensor:
        """Where rows of the batch lie among those of copies of its examples, which follow each other."""
        each = torch.bincount(self.example, minlength=len(self))
        first = each.cumsum(0) - each
        starts = each[example].cumsum(0) - each[example]
        return starts[copy] + row - first[self.example[row]]


def in_its_precision(dictionary: Dictionary, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "m d_in"]:
    """Rows in the dictionary's precision, on its device."""
    return rows.to(dictionary.device, dictionary.directions().dtype)


def codes_of(dictionary: Dictionary, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "m d_sae"]:
    """Codes of rows, dense; encoded in parts where they are many."""
    most = max(1, _CODE_BYTES // (4 * dictionary.d_sae))
    return torch.cat([dictionary.encode(part) for part in in_its_precision(dictionary, rows).split(most)])
