"""Planted: rows that are sparse sums of known directions."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.core.seeds import torch_generator
from unweave.datasets.base import Split
from unweave.datasets.rows import KnownRows, RowsConfig

Magnitude = Literal["uniform", "half-normal", "lognormal", "exponential", "constant"]
_LOGNORMAL_SIGMA = 0.5


@register("planted")
@dataclass(frozen=True, kw_only=True)
class Planted(RowsConfig):
    """Rows that are sums of a few out of many known directions: x = Σ_j c_j v_j + noise·ε, with ε standard normal.

    Shapes: rows [n, d_in], sources c [n, n_features], directions v [n_features, d_in] of length 1, drawn evenly from
    the sphere. More features than d_in is the case that sparse dictionaries are for, and that no orthogonal set solves.

    **Frequencies.** Feature j fires on a share p_j ∝ (j + 1)^−exponent of the rows, with Σ_j p_j = l0, each by itself.
    **Correlation.** Features of a group fire together: each has a Gaussian, any two of a group with this correlation,
    and fires where its own is among the lowest p_j (a Gaussian copula). **Hierarchy.** With depth above 1 the features
    are a forest, level by level: the roots follow the power law, each feature but those of the last level has
    `branching` children, and a child fires on the share `child_share` of the rows on which its parent does, and on no
    others.

    Directions depend on the seed alone, so that training and held-out rows, and any number of either, share them.
    """

    d_in: int = 64
    "width of a row"
    n_features: int = 128
    "true directions"
    l0: float = 4.0
    "features in a row, on average"
    count: Literal["varying", "exact"] = "varying"
    "features fire by themselves, so that their number varies from row to row; or each row has exactly l0 of them, any \
set as likely as any other (without power law, correlation or hierarchy)"
    exponent: float = 0.5
    "frequencies fall as the rank to the power of minus this; 0: all fire equally often"
    magnitude: Magnitude = "uniform"
    "law of c_j where it fires: even from 0.5 to 1.5, half-normal, lognormal (σ 0.5), exponential, or always 1; their \
mean is 1"
    noise: float = 0.05
    "standard deviation of the noise, an entry"
    correlation: float = 0.0
    "of the Gaussians that say which features of a group fire, from 0 to 1"
    group: int = 4
    "features in a group (correlation above 0)"
    depth: int = 1
    "levels of the hierarchy; 1: none"
    branching: int = 2
    "children of a feature (depth above 1)"
    child_share: float = 0.4
    "how often a child fires, of the rows on which its parent does (depth above 1)"
    non_negative: bool = False
    "rows and directions without negative entries: directions are |g|³ of a Gaussian g, normalised (a few large \
entries each, mean cosine 0.17 in high dimensions); noise that would make an entry negative is cut off there"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {"d_in": self.d_in, "n_features": self.n_features, "group": self.group}
        for name, value in {**sizes, "depth": self.depth, "branching": self.branching}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name, scale in {"exponent": self.exponent, "noise": self.noise}.items():
            if not 0 <= scale < float("inf"):
                raise InputError(f"{name} must be at least 0, got {scale}")
        if not 0 <= self.correlation <= 1:
            raise InputError(f"correlation must lie between 0 and 1, got {self.correlation}")
        if not 0 < self.child_share <= 1:
            raise InputError(f"child_share must be above 0, up to 1, got {self.child_share}")
        self._check_l0()

    def _check_l0(self) -> None:
        if not 0 < self.l0 <= self.n_features:
            raise InputError(f"l0 must be above 0, up to n_features ({self.n_features}), got {self.l0}")
        if self.count == "exact":
            if self.l0 != int(self.l0):
                raise InputError(f"count=exact takes a whole l0, got {self.l0}")
            if self.exponent or self.correlation or self.depth > 1:
                raise InputError("count=exact goes with exponent 0, correlation 0 and depth 1 only")
        elif (most := float(self.frequencies()[0])) > 1 + 1e-9:
            raise InputError(
                f"with l0 {self.l0:g} and exponent {self.exponent:g} the first of {self.n_features} features would "
                f"fire on {100 * most:.0f} % of the rows; lower one of them, or have more features"
            )

    def levels(self) -> Int64[Tensor, " n_features"]:
        """Level of each feature in the hierarchy; roots have 0."""
        whole = sum(self.branching**level for level in range(self.depth))
        roots = max(1, math.ceil(self.n_features / whole))
        sizes = torch.tensor([roots * self.branching**level for level in range(self.depth)])
        return torch.repeat_interleave(torch.arange(self.depth), sizes)[: self.n_features]

    def parents(self) -> Int64[Tensor, " n_features"]:
        """Parent of each feature; −1 for roots. A parent comes before its children."""
        levels = self.levels()
        roots = int((levels == 0).sum())
        parents = (torch.arange(self.n_features) - roots) // self.branching
        return torch.where(levels == 0, -1, parents)

    def frequencies(self) -> Float[Tensor, " n_features"]:
        """p_j: the share of rows on which each feature fires; they sum to l0."""
        levels, parents = self.levels(), self.parents()
        weights = (torch.arange(self.n_features, dtype=torch.float64) + 1) ** -self.exponent
        for level in range(1, self.depth):
            here = levels == level
            weights[here] = self.child_share * weights[parents[here]]
        return self.l0 * weights / weights.sum()

    def directions(self, seed: int) -> Float[Tensor, "n_features d_in"]:
        """v: the directions under a seed."""
        drawn = torch.randn(self.n_features, self.d_in, generator=torch_generator(seed, "planted directions"))
        return normalize(drawn.abs() ** 3 if self.non_negative else drawn, dim=1)

    def _make(self, n: int, seed: int, split: Split) -> KnownRows:
        generator = torch_generator(seed, "planted rows", *(() if split == "train" else (split,)))
        directions = self.directions(seed)
        row, feature = self._exactly(n, generator) if self.count == "exact" else self._firing(n, generator)
        sources = torch.zeros(n, self.n_features)
        sources[row, feature] = _magnitudes(self.magnitude, len(row), generator)
        rows = sources @ directions + self.noise * torch.randn(n, self.d_in, generator=generator)
        return KnownRows(rows.relu() if self.non_negative else rows, sources, directions)

    def _exactly(self, n: int, generator: torch.Generator) -> tuple[Int64[Tensor, " nnz"], Int64[Tensor, " nnz"]]:
        """Row and feature of every entry, l0 of them in each row."""
        l0 = int(self.l0)
        chosen = torch.rand(n, self.n_features, generator=generator).topk(l0, dim=1).indices
        return torch.arange(n).repeat_interleave(l0), chosen.flatten()

    def _firing(self, n: int, generator: torch.Generator) -> tuple[Int64[Tensor, " nnz"], Int64[Tensor, " nnz"]]:
        """Row and feature of every entry, each feature by its frequency, its group and its parent."""
        parents, levels = self.parents(), self.levels()
        p = self.frequencies()
        share = torch.where(levels == 0, p, p / p[parents.clamp_min(0)]).clamp_max(1.0)
        if self.correlation:
            own = torch.randn(n, self.n_features, generator=generator)
            group = self._groups(levels)
            shared = torch.randn(n, int(group.max()) + 1, generator=generator)[:, group]
            gaussian = math.sqrt(self.correlation) * shared + math.sqrt(1 - self.correlation) * own
            fires = gaussian < torch.special.ndtri(share).float()
        else:
            fires = torch.rand(n, self.n_features, generator=generator) < share.float()
        for level in range(1, self.depth):
            here = (levels == level).nonzero().squeeze(1)
            fires[:, here] &= fires[:, parents[here]]
        row, feature = fires.nonzero(as_tuple=True)
        return row, feature

    def _groups(self, levels: Int64[Tensor, " n_features"]) -> Int64[Tensor, " n_features"]:
        """Group of each feature: neighbours on the same level, so that no parent shares one with its child."""
        groups = torch.empty_like(levels)
        first = 0
        for level in range(int(levels.max()) + 1):
            here = (levels == level).nonzero().squeeze(1)
            groups[here] = first + torch.arange(len(here)) // self.group
            first = int(groups[here].max()) + 1
        return groups


def _magnitudes(law: Magnitude, size: int, generator: torch.Generator) -> Float[Tensor, " size"]:
    """So many values of mean 1."""
    if law == "uniform":
        return 0.5 + torch.rand(size, generator=generator)
    if law == "half-normal":
        return math.sqrt(math.pi / 2) * torch.randn(size, generator=generator).abs()
    if law == "lognormal":
        return (_LOGNORMAL_SIGMA * torch.randn(size, generator=generator) - _LOGNORMAL_SIGMA**2 / 2).exp()
    if law == "exponential":
        return torch.empty(size).exponential_(generator=generator)
    return torch.ones(size)
