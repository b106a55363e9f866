"""How an image of any size is brought to the one size that a batch needs: what models ask for and data sets do."""

from dataclasses import dataclass
from typing import Literal, get_args

from unweave.core.errors import InputError

Fit = Literal["crop", "stretch"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The size that images are read at, and what becomes of their aspect.

    `crop` keeps the largest centred part that has the aspect of height × width; `stretch` keeps all of the image and
    gives up its aspect.
    """

    height: int
    width: int
    fit: Fit = "crop"
    resample: Filter = "bicubic"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"images of {self.height} x {self.width} pixels have none; give a size of at least 1")
        if self.fit not in get_args(Fit):
            raise InputError(f"fit is {self.fit!r}: give {' or '.join(get_args(Fit))}")
        if self.resample not in get_args(Filter):
            raise InputError(f"resample is {self.resample!r}: give one of {', '.join(get_args(Filter))}")
