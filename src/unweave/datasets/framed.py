"""What data sets of image files share: the size that images get, how they are fitted to it, and what is left out."""

import dataclasses
from abc import ABC
from dataclasses import dataclass
from typing import Literal

from unweave.core.errors import InputError
from unweave.core.framing import Filter, Fit, Framing
from unweave.datasets.base import DatasetConfig

_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class FramedImages(DatasetConfig, ABC):
    """Base of data sets whose images differ in size and are resized to one."""

    size: int | tuple[int, int] | None = None
    "width and height, or height and width; by default what the model's own preprocessing asks for, else 64"
    fit: Fit | None = None
    "crop: the largest centred part of that aspect; stretch: all of it; by default as the model has it, else crop"
    resample: Filter | None = None
    "filter of the resize; by default as the model has it, else bicubic"
    channels: Literal[1, 3] = 3
    "3 for RGB, 1 for grey"
    on_broken: Literal["error", "skip"] = "error"
    "images that cannot be read: stop and name them, or leave them out with a warning that names them"

    def __post_init__(self) -> None:
        if self.size is not None and min((self.size,) if isinstance(self.size, int) else self.size) < 1:
            raise InputError(f"size is {self.size}: give the width and height that images shall have, 64 for example")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}: give 3 for RGB or 1 for grey")
        if self.on_broken not in ("error", "skip"):
            raise InputError(f"on_broken is {self.on_broken!r}: give 'error' or 'skip'")

    def for_model(self, framing: Framing | None) -> "FramedImages":
        """The configuration with what it left open as the model asks for it; who names a size means that one."""
        if framing is None or self.size is not None:
            return self
        sides = framing.height if framing.height == framing.width else (framing.height, framing.width)
        fit, resample = self.fit or framing.fit, self.resample or framing.resample
        return dataclasses.replace(self, size=sides, fit=fit, resample=resample)

    def framing(self, otherwise: int = _SIZE) -> Framing:
        """What the settings stand for, with a size for where nobody says one."""
        size = otherwise if self.size is None else self.size
        height, width = (size, size) if isinstance(size, int) else size
        return Framing(height=height, width=width, fit=self.fit or "crop", resample=self.resample or "bicubic")
