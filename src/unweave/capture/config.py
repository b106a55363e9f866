"""What is captured, whether it is stored or streamed."""

from dataclasses import dataclass
from typing import Literal, get_args

from unweave.core.errors import InputError
from unweave.models.hooks import Side
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning
from unweave.store.layout import Layout

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What is captured."""

    at: tuple[str, ...]
    "dotted names of modules, or globs"
    rows: RowMeaning = "flatten"
    "what a row is: flatten, pool (mean over positions), position (each place or token), cls (first token)"
    side: Side = "output"
    "what a module gives, or what it is given"
    dtype: Precision = "float32"
    "precision of the stored rows"
    mean: tuple[float, ...] = ()
    "subtracted from the images, one number or one a channel, before the model sees them"
    std: tuple[float, ...] = ()
    "the images are divided by it, one number or one a channel"
    layout: Layout | None = None
    "how positions lie in an example; found from the shapes where it is not given"
    prefix: Prefix = "keep"
    "whether tokens before those of an image's patches (class token, registers) give rows: keep or drop"

    def check(self) -> None:
        """Refuse what types alone would let pass.

        Raises:
            InputError: an unknown precision or side, or a division by 0.
        """
        for name, value, known in (("dtype", self.dtype, get_args(Precision)), ("side", self.side, get_args(Side))):
            if value not in known:
                raise InputError(f"{name}={value!r} is none of {', '.join(known)}")
        if not all(self.std):
            raise InputError("std must not hold 0: the inputs are divided by it")
