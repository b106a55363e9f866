"""Latents at several doses: what is asked, what each dose does to a code, and which rows it moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.config import Json, to_json
from unweave.core.errors import InputError, did_you_mean
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import HookPoints, Side
from unweave.models.places import mask_of
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning, to_rows
from unweave.steer.context import check_width
from unweave.steer.examples import Examples
from unweave.steer.moves import codes_of
from unweave.store.layout import Layout, as_details

DoseOp = Literal["set", "add", "scale"]
DoseUnit = Literal["max", "value"]


class SilentLatentsError(InputError):
    """A latent never fires on the examples, so that its doses have no unit."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is moved and how; all that decides the numbers besides model, dictionary and examples."""

    at: str
    latents: tuple[int, ...]
    doses: tuple[float, ...]
    op: DoseOp
    unit: str
    rows: RowMeaning
    side: Side
    controls: int
    resamples: int
    class_names: tuple[str, ...] | None
    layout: Layout | None = None
    positions: tuple[int, ...] | None = None

    def as_json(self) -> Json:
        """What decides the numbers; without what makes no difference to them."""
        said: Json = {name: value for name, value in to_json(self).items() if name not in ("layout", "positions")}
        if self.layout is not None and self.layout.prefix_dropped:
            said["layout"] = as_details(self.layout)
        return said if self.positions is None else {**said, "positions": list(self.positions)}

    def moves(self, position: Int64[Tensor, " m"], example: Int64[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Which rows are moved; positions below 0 count from the end of each example.

        Args:
            position: of each row in its example.
            example: that each belongs to.

        Raises:
            InputError: none is.
        """
        if self.positions is None:
            return torch.ones(len(position), dtype=torch.bool)
        last = torch.zeros(int(example.max()) + 1, dtype=torch.int64).scatter_reduce(0, example, position, "amax")
        asked = torch.tensor(self.positions)
        chosen = torch.isin(position, asked) | torch.isin(position - last[example] - 1, asked)
        if not bool(chosen.any()):
            raise InputError(f"no row has a position of {list(self.positions)}; rows have 0 to {int(position.max())}")
        return chosen


def check_doses(
    op: str, unit: str, doses: Sequence[float], latents: Sequence[int], controls: int, resamples: int
) -> None:
    """Check what is asked of a dose–response.

    Raises:
        InputError: an unknown operation or unit, doses or latents that are no list of different ones, no control.
    """
    for name, value, choices in (("op", op, get_args(DoseOp)), ("unit", unit, get_args(DoseUnit))):
        if value not in choices:
            raise InputError(f"{name}={value!r} is none of {', '.join(choices)}: {did_you_mean(str(value), choices)}")
    if not len(doses) or not np.isfinite(np.asarray(doses, np.float64)).all():
        raise InputError(f"doses must be finite numbers, at least one; got {list(doses)}")
    if len(set(doses)) < len(doses) or list(doses) != sorted(doses):
        raise InputError(f"doses must increase; got {list(doses)}")
    if not len(latents) or len(set(latents)) < len(latents):
        raise InputError(f"latents must name at least one latent, each once; got {list(latents)}")
    if controls < 1 or resamples < 1:
        raise InputError(f"controls and resamples must be at least 1, got {controls} and {resamples}")


def random_directions(number: int, d_in: int, seed: int) -> Float[Tensor, "number d_in"]:
    """Directions of length 1, for the control; the same ones for every latent and dose."""
    return normalize(torch.randn(number, d_in, generator=torch_generator(seed, "random directions")), dim=1)


def largest_codes(
    rest: RestOfNetwork, sae: Dictionary, examples: Examples, plan: Plan, batch_size: int
) -> Float[Tensor, " latents"]:
    """The largest code of each latent on the examples, where doses count in it; else 1.

    Raises:
        SilentLatentsError: one is never active.
        InputError: rows are of another width.
    """
    largest = torch.zeros(len(plan.latents), dtype=torch.float64)
    if plan.unit != "max":
        return largest + 1
    points = HookPoints(rest.model, plan.at, side=plan.side)
    index = torch.tensor(plan.latents, device=sae.device)
    for inputs in examples.batches(batch_size):
        tensor = points.read(inputs.to(rest.device))[plan.at]
        rows = to_rows(
            tensor,
            plan.rows,
            examples=len(inputs),
            name=plan.at,
            layout=plan.layout,
            mask=mask_of(inputs),
            width=sae.d_in,
        ).values
        check_width(sae, rows.shape[1], plan.at, plan.rows)
        largest = torch.maximum(largest, codes_of(sae, rows)[:, index].amax(0).double().cpu())
    silent = [latent for latent, most in zip(plan.latents, largest.tolist(), strict=True) if not most > 0]
    if silent:
        raise SilentLatentsError(
            f"never active on these examples: latents {', '.join(map(str, silent))}. Doses in multiples of the largest "
            "code need one; leave them out or give unit='value'"
        )
    return largest


def dose_values(plan: Plan, largest: Float[Tensor, " latents"]) -> Float[Tensor, "latents doses"]:
    """What each dose means for the code of each latent."""
    return largest.unsqueeze(1) * torch.tensor(plan.doses, dtype=torch.float64)


def steps_of(op: DoseOp, values: Float[Tensor, " doses"], codes: Float[Tensor, " m"]) -> Float[Tensor, "doses m"]:
    """What each dose adds to the code of each row, f' − f."""
    if op == "set":
        return values.unsqueeze(1) - codes
    if op == "add":
        return values.unsqueeze(1).expand(-1, len(codes)).clone()
    return (values.unsqueeze(1) - 1) * codes
