"""Where in an example a row by position comes from: a place of a grid over an image, or a token of a text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from unweave.core.errors import InputError

Area = tuple[float, float, float, float]
WHOLE_IMAGE: Area = (0.0, 0.0, 1.0, 1.0)
_GRID = re.compile(r"(\d+)x(\d+)(?:\+(\d+))?(:last)?")
_FEW = 16


class ImageView(NamedTuple):
    """What a model looks at of an image.

    Attributes:
        area: top, left, bottom and right of what it sees, as shares of the image's sides; beyond 0 and 1 where it adds
            a border.
        size: height and width in pixels of what its layers are given of it.
    """

    area: Area
    size: tuple[int, int]


class Box(NamedTuple):
    """A part of an image; all four as shares of its sides, counted from the top left."""

    top: float
    left: float
    bottom: float
    right: float

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the part that lies inside an image of this size; at least one pixel."""
        top, bottom = _ends(self.top, self.bottom, height)
        left, right = _ends(self.left, self.right, width)
        return top, left, bottom, right


def _ends(low: float, high: float, side: int) -> tuple[int, int]:
    first = min(max(round(low * side), 0), side - 1)
    return first, min(max(round(high * side), first + 1), side)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the positions of an example lie in it.

    A row's position counts all tokens or places from 0, those included that are no place of the image. So position
    `prefix` + r · `width` + c is the place in row r and column c of a `grid`, unless an `order` says otherwise.

    Raises:
        InputError: a grid without places, a negative prefix, an area without extent, or an order that leaves a place
            out.
    """

    kind: Literal["grid", "tokens", "whole"]
    "grid: places of an image; tokens: of a text; whole: one row an example"
    height: int = 0
    "places of a grid from top to bottom"
    width: int = 0
    "places of a grid from left to right"
    prefix: int = 0
    "tokens before those of the places (class token, registers): they show no part of the image"
    prefix_dropped: bool = False
    "whether rows leave those tokens out"
    channels_last: bool = False
    "whether the hook point gives [b, h, w, c] rather than [b, c, h, w]"
    area: Area = WHOLE_IMAGE
    "top, left, bottom and right of what the grid covers, as shares of the image's sides"
    order: tuple[int, ...] = ()
    "which place (row · width + column) each token of the grid shows, where they do not come row by row"

    def __post_init__(self) -> None:
        if self.kind == "grid" and (self.height < 1 or self.width < 1):
            raise InputError(f"a grid needs places, got {self.height} × {self.width}")
        if self.prefix < 0:
            raise InputError(f"prefix must not be negative, got {self.prefix}")
        top, left, bottom, right = self.area
        if not (top < bottom and left < right):
            raise InputError(f"area must be top, left, bottom, right with an extent, got {list(self.area)}")
        if self.order and sorted(self.order) != list(range(self.places)):
            raise InputError(f"order must name each of the {self.places} places once, got {len(self.order)} numbers")

    @property
    def places(self) -> int:
        """Places of the grid; 0 where there is none."""
        return self.height * self.width if self.kind == "grid" else 0

    @property
    def first(self) -> int:
        """Position of an example's first row."""
        return self.prefix if self.prefix_dropped else 0

    def position(self, row: int, column: int) -> int:
        """Position of a place of the grid.

        Raises:
            InputError: there is no grid, or no such place.
        """
        if self.kind != "grid":
            raise InputError(f"rows are {self.kind}: they have no place in an image")
        if not (0 <= row < self.height and 0 <= column < self.width):
            raise InputError(f"there is no place ({row}, {column}): the grid is {self.height} × {self.width}, from 0")
        place = row * self.width + column
        return self.prefix + (self.order.index(place) if self.order else place)

    def box(self, position: int) -> Box | None:
        """The part of the image at a position; None for what is no place.

        It is an equal share of what the grid covers: where a unit sits, which is less than what it can see.
        """
        place = position - self.prefix
        if self.kind != "grid" or not 0 <= place < self.places:
            return None
        row, column = divmod(self.order[place] if self.order else place, self.width)
        top, left, bottom, right = self.area
        tall, wide = (bottom - top) / self.height, (right - left) / self.width
        return Box(top + row * tall, left + column * wide, top + (row + 1) * tall, left + (column + 1) * wide)

    def heat(
        self, position: Int64[np.ndarray, " m"], value: Float[np.ndarray, " m"]
    ) -> Float32[np.ndarray, "height width"]:
        """Values at their places; NaN where there is none.

        Raises:
            InputError: there is no grid.
        """
        if self.kind != "grid":
            raise InputError(f"rows are {self.kind}: they have no place in an image")
        found = np.full(self.places, np.nan, np.float32)
        place = position - self.prefix
        inside = (place >= 0) & (place < self.places)
        shown = np.asarray(self.order)[place[inside]] if self.order else place[inside]
        found[shown] = value[inside]
        return found.reshape(self.height, self.width)


def read_grid(text: str) -> Layout:
    """A grid as it is written: `7x7` of 7 × 7 places, `7x7+1` after a class token, `7x7:last` of [b, h, w, c].

    Raises:
        InputError: it is none.
    """
    found = _GRID.fullmatch(text)
    if found is None or (found[3] and found[4]):
        raise InputError(
            f"a grid is HEIGHTxWIDTH, 7x7+1 with one token before it, or 7x7:last of [b, h, w, c]; got {text!r}"
        )
    height, width, prefix = (int(number or 0) for number in found.groups()[:3])
    return Layout(kind="grid", height=height, width=width, prefix=prefix, channels_last=bool(found[4]))


def as_details(layout: Layout | None) -> dict[str, Any] | None:
    """A layout as a manifest keeps it."""
    if layout is None:
        return None
    said = {**vars(layout), "area": list(layout.area), "order": list(layout.order)}
    return said if layout.order else {name: value for name, value in said.items() if name != "order"}


def from_details(details: Any) -> Layout | None:
    """A layout from a manifest; None where an earlier version wrote it.

    Raises:
        InputError: what is written there is no layout.
    """
    if details is None:
        return None
    try:
        return Layout(**{**details, "area": tuple(details["area"]), "order": tuple(details.get("order", ()))})
    except (TypeError, KeyError) as error:
        raise InputError(f"the layout of rows cannot be read: {error}") from None


def find_grid(tokens: int, size: Sequence[int], patch: int | None = None) -> tuple[int, int, int] | None:
    """Height and width of the grid, and the tokens before it, that so many tokens of an image make.

    Of all sides of a square patch that the image can be cut into, the one that leaves the fewest tokens over. The patch
    that the model is known to use comes first, then those that cut the image without a rest and leave at most 16 tokens
    over, then a grid of the image's own aspect with at most one token before it (patches that overlap, or an image that
    the model resizes), then more tokens before the patches, and last a rest of the image that is cut off or filled up.
    Never are more tokens left over than half of the places, or 64; where there is a rest, than 8 or an eighth.

    Args:
        tokens: of one example.
        size: height and width of the image in pixels.
        patch: side of the patches that the model's first convolution takes, where it is known.

    Returns:
        None where no grid fits.
    """
    tall, wide = size
    found: list[tuple[int, int, tuple[int, int, int]]] = []
    for side in range(1, min(tall, wide) + 1):
        whole = tall % side == 0 and wide % side == 0
        for up in {0, 1} if not whole else {0}:  # a rest of the image is cut off, or filled up to a patch
            height, width = (tall + up * (side - 1)) // side, (wide + up * (side - 1)) // side
            over, places = tokens - height * width, height * width
            known = side == patch
            most = min(64, places // 2) if whole or known else min(8, places // 8)
            if 0 <= over <= (64 if known else most):
                rank = 0 if known else 4 if not whole else 1 if over <= _FEW else 3
                found.append((rank, over, (height, width, over)))
    shape = math.gcd(tall, wide)
    times = math.isqrt(tokens * shape * shape // (tall * wide))
    height, width = times * tall // shape, times * wide // shape
    if 0 <= tokens - height * width <= min(1, height * width // 2):
        found.append((2, tokens - height * width, (height, width, tokens - height * width)))
    return min(found)[2] if found else None


def is_grid(height: int, width: int, size: Sequence[int]) -> bool:
    """Whether a feature map of this size can lie over an image: as many pixels to a place in both directions.

    A place more or less is allowed for, which is what borders and strides that do not divide the image come to.
    """
    low = [side / (places + 1) for side, places in zip(size, (height, width), strict=True)]
    high = [side / max(places - 1, 0.5) for side, places in zip(size, (height, width), strict=True)]
    return max(low) <= min(high)
