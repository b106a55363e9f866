"""What is done to latents: the five operations, and how users write them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError, did_you_mean

Op = Literal["add", "set", "scale", "clamp", "ablate", "keep"]
_VALUES = {"add": 1, "set": 1, "scale": 1, "clamp": 2, "ablate": 0, "keep": 0}
_EXAMPLES = {
    "add": '("add", 1.5)',
    "set": '("set", 5.0)',
    "scale": '("scale", 2)',
    "clamp": '("clamp", 0, 2)',
    "ablate": '"ablate"',
    "keep": '"keep"',
}


@dataclass(frozen=True)
class Edit:
    """What is done to the code f of one latent.

    `add` v: f + v. `set` v: v, whether it was active or not. `scale` v: f · v. `clamp` l, h: f between l and h.
    `ablate`: 0. `keep`: f; where any latent is kept, those that no edit names become 0.

    Raises:
        InputError: an unknown operation, the wrong number of values, NaN, or l > h.
    """

    latent: int
    op: Op
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        where = f"latent {self.latent}"
        _check_op(self.op, where)
        if len(self.values) != (count := _VALUES[self.op]):
            takes = ("no value", "one value", "two values")[count]
            raise InputError(f"{where}: {self.op} takes {takes}, got {len(self.values)}: write {_EXAMPLES[self.op]}")
        if any(math.isnan(value) for value in self.values):
            raise InputError(f"{where}: {self.op} got NaN")
        if self.op == "clamp":
            if self.values[0] > self.values[1]:
                raise InputError(f"{where}: clamp needs lower ≤ upper, got {self.values[0]:g} and {self.values[1]:g}")
        elif any(math.isinf(value) for value in self.values):
            raise InputError(f"{where}: {self.op} needs a finite value, got {self.values[0]:g}")

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{value:g}" for value in self.values)])


def _check_op(op: str, where: str) -> None:
    if op not in _VALUES:
        raise InputError(f"{where}: there is no edit {op!r}: {did_you_mean(str(op), _VALUES)}")


Edits = tuple[Edit, ...]


def read_edits(edits: Mapping[Any, Any], d_sae: int) -> Edits:
    """Edits as users write them: `{17: ("set", 5.0), 3: "ablate", 4: ("clamp", 0, 2), 8: "keep"}`.

    Args:
        edits: an operation for each latent: its name, (name, value, …) or an `Edit`.
        d_sae: number of latents.

    Raises:
        InputError: a latent that there is not, or an edit that cannot be.
    """
    if not isinstance(edits, Mapping):
        raise InputError(f'edits must map latents to operations, as in {{17: ("set", 5.0)}}; got {edits!r}')
    return tuple(_read(check_latent(latent, d_sae), edit) for latent, edit in edits.items())


def check_latent(latent: Any, d_sae: int) -> int:
    """The latent's number.

    Raises:
        InputError: it is no whole number, or there is no such latent.
    """
    if isinstance(latent, bool) or not isinstance(latent, Integral):
        raise InputError(f"a latent is named by its number, from 0 to {d_sae - 1}; got {latent!r}")
    if not 0 <= int(latent) < d_sae:
        raise InputError(f"there is no latent {latent}: the dictionary has {d_sae}, counted from 0")
    return int(latent)


def _read(latent: int, edit: Any) -> Edit:
    if isinstance(edit, Edit):
        if edit.latent != latent:
            raise InputError(f"latent {latent}: its edit is of latent {edit.latent}")
        return edit
    op, *values = [edit] if isinstance(edit, str) else edit if isinstance(edit, (tuple, list)) and edit else [None]
    if not isinstance(op, str):
        raise InputError(f"latent {latent}: {edit!r} is no edit; write one of {', '.join(_EXAMPLES.values())}")
    _check_op(op, f"latent {latent}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InputError(f"latent {latent}: {op} takes numbers, got {value!r}")
    return Edit(latent, op, tuple(float(value) for value in values))  # type: ignore[arg-type]  # checked there


def apply_edits(codes: Float[Tensor, "... d_sae"], edits: Edits) -> Float[Tensor, "... d_sae"]:
    """Codes after the edits; the codes themselves where there is none.

    Every edit is f' = clamp(a·f + b, l, h), so all of them are one operation, and gradients flow through it.
    """
    if not edits:
        return codes
    latent = torch.tensor([edit.latent for edit in edits], device=codes.device)
    factor, shift, low, high = codes.new_tensor([_coefficients(edit) for edit in edits]).unbind(1)
    changed = torch.minimum(torch.maximum(factor * codes[..., latent] + shift, low), high)
    others = torch.zeros_like(codes) if any(edit.op == "keep" for edit in edits) else codes
    return others.index_copy(-1, latent, changed)


def _coefficients(edit: Edit) -> tuple[float, float, float, float]:
    """a, b, l and h."""
    inf = math.inf
    match edit.op:
        case "add":
            return 1.0, edit.values[0], -inf, inf
        case "set":
            return 0.0, edit.values[0], -inf, inf
        case "scale":
            return edit.values[0], 0.0, -inf, inf
        case "clamp":
            return 1.0, 0.0, *edit.values  # type: ignore[return-value]  # two of them, checked
        case "ablate":
            return 0.0, 0.0, -inf, inf
        case _:
            return 1.0, 0.0, -inf, inf


OPS: tuple[str, ...] = get_args(Op)
