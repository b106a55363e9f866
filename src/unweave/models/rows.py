"""What a row is: from a module's tensor for a batch to rows [m, d_in] with the position of each."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unweave.core.errors import InputError, did_you_mean
from unweave.store.layout import Layout

RowMeaning = Literal["flatten", "pool", "position", "cls"]


class Rows(NamedTuple):
    """Rows of a batch: consecutive ones belong to one example; `per_example` of each, or 0 where they differ."""

    values: Float[Tensor, "m d_in"]
    position: Int64[Tensor, " m"]
    per_example: int
    example: Int64[Tensor, " m"]


def to_rows(
    tensor: Tensor,
    meaning: RowMeaning,
    *,
    examples: int,
    name: str,
    layout: Layout | None = None,
    mask: Tensor | None = None,
    width: int | None = None,
) -> Rows:
    """Rows of one hook point's tensor.

    Args:
        tensor: [b, …]: [b, d], tokens [b, t, d] or a feature map [b, c, h, w] (or [b, h, w, c], where `layout` says so
            or only that gives rows of `width`).
        meaning: `flatten` makes one row of everything an example has; `pool` averages over tokens or places; `position`
            makes a row of each token (position t) or place (position h·width + w); `cls` takes the first token.
        examples: b, to check that the tensor has one entry an example.
        name: hook point, for the message.
        layout: how positions lie in an example, as it was captured.
        mask: [b, t], not 0 where there is a token of the text; others give no row, and positions count the real ones.
        width: of the rows that are wanted, where it is known.

    Raises:
        InputError: the tensor does not have the axes that the meaning needs.
    """
    if meaning not in get_args(RowMeaning):
        raise InputError(f"rows={meaning!r} is no meaning of a row: {did_you_mean(meaning, get_args(RowMeaning))}")
    shape = list(tensor.shape)
    if not tensor.is_floating_point() or tensor.ndim < 2 or len(tensor) != examples:
        raise InputError(f"{name!r} gives {tensor.dtype} {shape} for {examples} examples; rows need floats [b, ...]")
    if meaning == "position":
        places = _places(tensor, meaning, name, layout, width)
        kept = kept_places(places, layout, mask)
        if kept is None:
            number = places.shape[1]
            position = torch.arange(number).repeat(examples)
            return Rows(places.flatten(0, 1), position, number, torch.arange(examples).repeat_interleave(number))
        each = kept.sum(1)
        same = len(each) and bool((each == each[0]).all())
        position = _positions(places, mask)[kept].cpu()
        example = torch.arange(examples).repeat_interleave(each.cpu())
        return Rows(places[kept], position, int(each[0]) if same else 0, example)
    if meaning == "flatten":
        values = tensor.flatten(1)
    elif meaning == "cls":
        if tensor.ndim != 3:
            raise InputError(
                f"rows='cls' needs tokens [b, t, d]; {name!r} gives {shape}: use flatten, pool or position"
            )
        values = tensor[:, 0]
    else:
        places = _places(tensor, meaning, name, layout, width)
        kept = kept_places(places, layout, mask)
        values = places.mean(1) if kept is None else _mean(places, kept)
    return Rows(values, torch.zeros(examples, dtype=torch.int64), 1, torch.arange(examples))


def _mean(places: Float[Tensor, "b p d"], kept: Bool[Tensor, "b p"]) -> Float[Tensor, "b d"]:
    weight = kept.to(places.dtype).unsqueeze(2)
    return (places * weight).sum(1) / weight.sum(1).clamp(min=1)


def _is_channels_last(tensor: Tensor, layout: Layout | None, width: int | None) -> bool:
    if tensor.ndim != 4:
        return False
    if layout is not None:
        return layout.channels_last
    return width is not None and tensor.shape[1] != width and tensor.shape[3] == width


def _places(tensor: Tensor, meaning: str, name: str, layout: Layout | None, width: int | None) -> Tensor:
    """Tokens or places [b, p, d]."""
    if tensor.ndim == 2:
        return tensor.unsqueeze(1)
    if tensor.ndim == 3:
        return tensor
    if tensor.ndim == 4:
        if _is_channels_last(tensor, layout, width):
            return tensor.flatten(1, 2)
        return tensor.flatten(2).transpose(1, 2)
    raise InputError(f"rows={meaning!r} reads [b, d], [b, t, d] or [b, c, h, w]; {name!r} gives {list(tensor.shape)}")


def kept_places(
    places: Float[Tensor, "b p d"], layout: Layout | None, mask: Tensor | None
) -> Bool[Tensor, "b p"] | None:
    """Which tokens or places give a row; None where all do.

    A mask is of a text's tokens: where the tensor has another number of them, it holds something else.
    """
    b, p = places.shape[:2]
    kept = None
    if mask is not None and tuple(mask.shape) == (b, p):
        kept = mask.to(places.device) != 0
        kept = None if bool(kept.all()) else kept
    if layout is not None and layout.prefix_dropped and layout.prefix:
        kept = torch.ones(b, p, dtype=torch.bool, device=places.device) if kept is None else kept.clone()
        kept[:, : layout.prefix] = False
    return kept


def _positions(places: Float[Tensor, "b p d"], mask: Tensor | None) -> Int64[Tensor, "b p"]:
    b, p = places.shape[:2]
    if mask is not None and tuple(mask.shape) == (b, p):
        return (mask.to(places.device) != 0).long().cumsum(1) - 1
    return torch.arange(p, device=places.device).expand(b, p)


def with_rows(
    tensor: Tensor,
    rows: Float[Tensor, "m d_in"],
    meaning: RowMeaning,
    *,
    layout: Layout | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The hook point's tensor with other rows in it: the inverse of `to_rows`.

    With `pool` every token or place moves by what the mean moved, so that the mean is the row that was asked for. What
    gave no row (a prefix that is left out, padding) stays as it is.

    Args:
        tensor: what `to_rows` was given.
        rows: as many as it gave, of the same width; of any precision and device.
        meaning: the one that it was given.
        layout: the same.
        mask: the same.

    Returns:
        A tensor of the same shape, precision and device; `tensor` is not written into.

    Raises:
        InputError: the tensor has other rows.
    """
    options = {"layout": layout, "mask": mask, "width": rows.shape[1]}
    own = to_rows(tensor, meaning, examples=len(tensor), name="the tensor", **options)  # type: ignore[arg-type]
    if rows.shape != own.values.shape:
        raise InputError(f"a tensor {list(tensor.shape)} has rows {list(own.values.shape)}, not {list(rows.shape)}")
    if meaning == "cls":
        return torch.cat([rows.to(tensor).unsqueeze(1), tensor[:, 1:]], 1)
    if meaning == "flatten" or tensor.ndim == 2:
        return rows.to(tensor).reshape(tensor.shape)
    last = _is_channels_last(tensor, layout, rows.shape[1])
    places = _places(tensor, meaning, "the tensor", layout, rows.shape[1])
    kept = kept_places(places, layout, mask)
    if meaning == "pool":
        moved = (rows.to(tensor.device) - own.values).to(tensor.dtype).unsqueeze(1)
        places = places + (moved if kept is None else moved * kept.unsqueeze(2))
    elif kept is None:
        places = rows.to(tensor).view(places.shape)
    else:
        places = places.clone()
        places[kept] = rows.to(tensor)
    return _from_places(places, tensor, channels_last=last)


def _from_places(places: Float[Tensor, "b p d"], tensor: Tensor, *, channels_last: bool) -> Tensor:
    if tensor.ndim == 4 and not channels_last:
        places = places.transpose(1, 2)
    return places.reshape(tensor.shape)
