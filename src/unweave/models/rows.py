"""What a row is: from a module's tensor for a batch to rows [m, d_in] with the position of each."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import InputError, did_you_mean

RowMeaning = Literal["flatten", "pool", "position", "cls"]


class Rows(NamedTuple):
    """Rows of a batch; `per_example` consecutive rows belong to one example."""

    values: Float[Tensor, "m d_in"]
    position: Int64[Tensor, " m"]
    per_example: int


def to_rows(tensor: Tensor, meaning: RowMeaning, *, examples: int, name: str) -> Rows:
    """Rows of one hook point's tensor.

    Args:
        tensor: [b, …]: [b, d], tokens [b, t, d] or a feature map [b, c, h, w].
        meaning: `flatten` makes one row of everything an example has; `pool` averages over tokens or places; `position`
            makes a row of each token (position t) or place (position h·width + w); `cls` takes the first token.
        examples: b, to check that the tensor has one entry an example.
        name: hook point, for the message.

    Raises:
        InputError: the tensor does not have the axes that the meaning needs.
    """
    if meaning not in get_args(RowMeaning):
        raise InputError(f"rows={meaning!r} is no meaning of a row: {did_you_mean(meaning, get_args(RowMeaning))}")
    shape = list(tensor.shape)
    if not tensor.is_floating_point() or tensor.ndim < 2 or len(tensor) != examples:
        raise InputError(f"{name!r} gives {tensor.dtype} {shape} for {examples} examples; rows need floats [b, ...]")
    if meaning == "flatten":
        values = tensor.flatten(1)
    elif meaning == "cls":
        if tensor.ndim != 3:
            raise InputError(
                f"rows='cls' needs tokens [b, t, d]; {name!r} gives {shape}: use flatten, pool or position"
            )
        values = tensor[:, 0]
    else:
        places = _places(tensor, meaning, name)
        values = places.mean(1) if meaning == "pool" else places.flatten(0, 1)
    per_example = len(values) // max(examples, 1)
    return Rows(values, torch.arange(per_example).repeat(examples), per_example)


def _places(tensor: Tensor, meaning: str, name: str) -> Float[Tensor, "b places d"]:
    if tensor.ndim == 2:
        return tensor.unsqueeze(1)
    if tensor.ndim == 3:
        return tensor
    if tensor.ndim == 4:
        return tensor.flatten(2).transpose(1, 2)
    raise InputError(f"rows={meaning!r} reads [b, d], [b, t, d] or [b, c, h, w]; {name!r} gives {list(tensor.shape)}")


def with_rows(tensor: Tensor, rows: Float[Tensor, "m d_in"], meaning: RowMeaning) -> Tensor:
    """The hook point's tensor with other rows in it: the inverse of `to_rows`.

    With `pool` every token or place moves by what the mean moved, so that the mean is the row that was asked for.

    Args:
        tensor: what `to_rows` was given.
        rows: as many as it gave, of the same width; of any precision and device.
        meaning: the one that it was given.

    Returns:
        A tensor of the same shape, precision and device; `tensor` is not written into.

    Raises:
        InputError: the tensor has other rows.
    """
    own = to_rows(tensor, meaning, examples=len(tensor), name="the tensor")
    if rows.shape != own.values.shape:
        raise InputError(f"a tensor {list(tensor.shape)} has rows {list(own.values.shape)}, not {list(rows.shape)}")
    if meaning == "pool" and tensor.ndim > 2:
        moved = (rows.to(tensor.device) - own.values).to(tensor.dtype)
        return tensor + (moved.unsqueeze(1) if tensor.ndim == 3 else moved[:, :, None, None])
    rows = rows.to(tensor)
    if meaning == "cls":
        return torch.cat([rows.unsqueeze(1), tensor[:, 1:]], 1)
    if meaning == "position" and tensor.ndim == 4:
        rows = rows.view(len(tensor), -1, tensor.shape[1]).transpose(1, 2)
    return rows.reshape(tensor.shape)
