"""Waves: a sine and a square wave, mixed into two signals."""

import math
from dataclasses import dataclass

import torch

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.core.seeds import torch_generator
from unweave.datasets.base import Split
from unweave.datasets.rows import KnownRows, RowsConfig


@register("waves")
@dataclass(frozen=True, kw_only=True)
class Waves(RowsConfig):
    """Two known signals over time, mixed into two observed ones: x = s M with s₁ = sin t + 1, s₂ = sign(sin 3t) + 1.

    Shapes: rows [n, 2], sources [n, 2], directions M [2, 2]. Time goes evenly from 0 to 2π·periods, both ends included;
    held-out rows lie half a step later. Without noise nothing is drawn.

    The sources are uncorrelated over whole periods, but by no means independent: sin 3t = 3 sin t − 4 sin³ t, so the
    first one says all of the second.
    """

    n: int = 3000
    "moments in time"
    periods: float = 7.0
    "periods of the slower source"
    mixing: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.4), (0.6, 1.0))
    "M: what one unit of each source (a row) adds to each signal (a column)"
    noise: float = 0.0
    "standard deviation of the noise on the observed signals"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.periods < float("inf"):
            raise InputError(f"periods must be above 0, got {self.periods}")
        if not all(math.isfinite(weight) for row in self.mixing for weight in row):
            raise InputError(f"mixing must be four finite numbers, got {self.mixing}")
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise must be at least 0, got {self.noise}")

    def _make(self, n: int, seed: int, split: Split) -> KnownRows:
        time = torch.linspace(0, 2 * math.pi * self.periods, n, dtype=torch.float64)
        if split == "test":
            time = time + math.pi * self.periods / max(1, n - 1)
        sources = torch.stack([time.sin() + 1, (3 * time).sin().sign() + 1], dim=1)
        mixing = torch.tensor(self.mixing, dtype=torch.float64)
        rows = sources @ mixing
        if self.noise:
            generator = torch_generator(seed, "waves", split)
            rows = rows + self.noise * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        return KnownRows(rows.float(), sources.float(), mixing.float())
