"""What a latent stands beside: the latents that fire with it, and those that point where it does."""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.analyze.atlas import Atlas
from unweave.core.errors import InputError, did_you_mean
from unweave.metrics.coactivation import Coactivation, coactivation, shared_rows

NEARNESS = ("jaccard", "lift", "z", "shared")
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Coactive:
    """Latents that fire on the same rows as one latent, nearest first.

    Attributes:
        latent: which they are.
        count: rows on which each fires.
        beside: the numbers of each; what they mean is said there.
        rows: rows on which the latent itself fires.
        n: all rows.
    """

    latent: Int64[np.ndarray, " m"]
    count: Int64[np.ndarray, " m"]
    beside: Coactivation
    rows: int
    n: int


@dataclass(frozen=True, eq=False)
class Similar:
    """Latents whose directions are closest to one latent's, closest first.

    Attributes:
        latent: which they are.
        cosine: of the angle between both directions.
        chance: the median of the largest cosine that so many random directions of this width would have with it.
    """

    latent: Int64[np.ndarray, " m"]
    cosine: Float[np.ndarray, " m"]
    chance: float


def coactive_latents(atlas: Atlas, latent: int, *, most: int = 12, order: str = "jaccard") -> Coactive:
    """The latents that share rows with this one; only the rows on which it fires are read.

    Args:
        atlas: where the codes are.
        latent: which.
        most: how many are given.
        order: `jaccard` (share of both in either), `lift` (over independence; rare latents come first), `z` (evidence
            that it is not chance; frequent ones come first) or `shared` (rows).

    Returns:
        Up to `most` latents that share a row with it; equal ones by index.

    Raises:
        InputError: there is no such latent or order.
    """
    if order not in NEARNESS:
        raise InputError(f"order={order!r} is no nearness: {did_you_mean(order, NEARNESS)}")
    atlas.check(latent)
    entries = atlas.entries
    rows, _ = entries.of(latent)
    shared = shared_rows(atlas.codes, rows)
    found = coactivation(shared, len(rows), entries.counts, entries.n)
    shared[latent] = 0
    others = np.flatnonzero(shared)
    nearness = np.nan_to_num(getattr(found, order)[others], nan=-np.inf)
    chosen = others[np.argsort(-nearness, kind="stable")[:most]]
    beside = {name: getattr(found, name)[chosen] for name in ("shared", "expected", "lift", "jaccard", "z")}
    return Coactive(chosen, entries.counts[chosen], Coactivation(**beside), len(rows), entries.n)


@torch.no_grad()
def similar_latents(directions: Float[Tensor, "d_sae d_in"], latent: int, *, most: int = 12) -> Similar:
    """The latents whose directions have the largest cosine with this one's.

    Args:
        directions: of all latents; may be mapped from a file, for it is read in parts.
        latent: which.
        most: how many are given.

    Returns:
        Up to `most` other latents; a direction of length 0 is close to none and never among them. Where this one's is,
        there are none.

    Raises:
        InputError: there is no such latent.
    """
    d_sae, d_in = directions.shape
    if not 0 <= latent < d_sae:
        raise InputError(f"there is no latent {latent}: there are {d_sae} directions, counted from 0")
    own = directions[latent].float()
    own = own / own.norm()  # NaN where it has no length, and so is every cosine
    parts = []
    for part in directions.split(max(1, _CHUNK_BYTES // (4 * d_in))):
        parts.append((part.float() @ own) / part.float().norm(dim=1))
    cosine = torch.cat(parts)
    cosine[latent] = torch.nan
    cosine = cosine.nan_to_num(nan=-2.0)
    value, index = cosine.topk(min(most, d_sae))
    kept = value > -2.0
    return Similar(index[kept].cpu().numpy(), value[kept].cpu().double().numpy(), _largest_by_chance(d_sae - 1, d_in))


def _largest_by_chance(m: int, d_in: int) -> float:
    """Median of the largest cosine of m random directions: (1 + cos) / 2 is Beta((d − 1) / 2, (d − 1) / 2)."""
    if m < 1 or d_in < 2:
        return float("nan")
    shape = (d_in - 1) / 2
    return float(2 * scipy.stats.beta.isf(-np.expm1(np.log(0.5) / m), shape, shape) - 1)
