"""Moving rows along directions, and what the model answers then."""

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.rest import OnBatch
from unweave.models.rows import RowMeaning, to_rows, with_rows
from unweave.steer.context import check_width

_CODE_BYTES = 64 << 20
_VALUES_AT_ONCE = 1 << 21


class Opened:
    """One batch at its hook point: rows, codes, and the answers to rows that were moved.

    Attributes:
        rows: rows [m, d_in] of the batch, in the dictionary's precision, on its device.
        answers: the model's own answers [b, classes], float64 on the CPU.
    """

    def __init__(self, batch: OnBatch, dictionary: Dictionary, meaning: RowMeaning, name: str) -> None:
        read = to_rows(batch.values, meaning, examples=len(batch.values), name=name)
        check_width(dictionary, read.values.shape[1], name, meaning)
        if batch.answers.ndim != 2 or not batch.answers.is_floating_point():
            raise InputError(f"the model answers with {list(batch.answers.shape)}; logits are floats [b, classes]")
        self._batch, self._dictionary, self._meaning, self._own = batch, dictionary, meaning, read.values
        self.per_example = read.per_example
        self.rows = in_its_precision(dictionary, read.values)
        self.answers = batch.answers.double().cpu()

    def __len__(self) -> int:
        return len(self._batch.inputs)

    def codes(self) -> Float[Tensor, "m d_sae"]:
        """Codes of the rows, dense."""
        return codes_of(self._dictionary, self.rows)

    def answers_to(self, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "b classes"]:
        """Answers with other rows in place of the batch's own, float64 on the CPU."""
        return self._batch(with_rows(self._batch.values, rows, self._meaning)).double().cpu()

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
            new = with_rows(repeated, moved.flatten(0, 1), self._meaning)
            found.append(self._batch(new, torch.arange(b, device=device).repeat(count)).unflatten(0, (count, b)))
        answers = torch.cat(found).cpu()
        return answers.to(torch.promote_types(answers.dtype, torch.float32))

    def answers_to_single_moves(
        self,
        row: Tensor,
        example: Tensor,
        lengths: Float[Tensor, " m"],
        directions: Float[Tensor, "m d_in"],
    ) -> Float[Tensor, "p classes"]:
        """Answers to p copies of examples, in each of which some rows are moved.

        Args:
            row: of each move [m], counted as if the copies' rows followed each other.
            example: of each copy [p], its place in the batch.
            lengths: of each move.
            directions: of each move.
        """
        device = self._batch.values.device
        values = self._batch.values[example.to(device)]
        rows = to_rows(values, self._meaning, examples=len(values), name="the copies").values
        moved = rows.to(torch.promote_types(rows.dtype, lengths.dtype), copy=True)
        moved[row.to(device)] += (lengths.unsqueeze(1) * directions).to(moved)
        return self._batch(with_rows(values, moved, self._meaning), example.to(device)).double().cpu()


def in_its_precision(dictionary: Dictionary, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "m d_in"]:
    """Rows in the dictionary's precision, on its device."""
    return rows.to(dictionary.device, dictionary.directions().dtype)


def codes_of(dictionary: Dictionary, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "m d_sae"]:
    """Codes of rows, dense; encoded in parts where they are many."""
    most = max(1, _CODE_BYTES // (4 * dictionary.d_sae))
    return torch.cat([dictionary.encode(part) for part in in_its_precision(dictionary, rows).split(most)])
