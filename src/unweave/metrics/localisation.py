"""Is what a map holds gathered in one place?"""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Float64, Int64

from unweave.core.errors import InputError

_TOUCHING = np.ones((3, 3), bool)  # a pixel touches the eight around it


@dataclass(frozen=True, eq=False)
class Localisation:
    """How each of m maps lies in the plane.

    Attributes:
        components: connected parts of the smallest set of pixels that holds half of the mass.
        largest: share of that set's mass in its largest part; 1 where it is one part.
        entropy: bits that say in which cell of a coarse grid the mass lies; 0 where it is in one cell.
    """

    components: Int64[np.ndarray, " m"]
    largest: Float64[np.ndarray, " m"]
    entropy: Float64[np.ndarray, " m"]

    def measures(self) -> dict[str, Float64[np.ndarray, " m"]]:
        """Each measure by name."""
        return {"components": self.components.astype(np.float64), "largest": self.largest, "entropy": self.entropy}


def localisation(maps: Float[np.ndarray, "m h w"], *, share: float = 0.5, cells: int = 4) -> Localisation:
    """Measure maps of mass.

    Args:
        maps: no value below 0, not all zero.
        share: share of the mass that the smallest set of pixels holds.
        cells: the grid for the entropy has so many cells a side.

    Raises:
        InputError: a map holds negative values, NaN or no mass at all.
    """
    maps = np.asarray(maps, np.float64)
    if len(bad := np.flatnonzero(~(maps.sum((1, 2)) > 0) | (maps < 0).any((1, 2)))):
        raise InputError(f"map {bad[0]} has no mass, or negative or missing values; give absolute values")
    counts, largest = np.empty(len(maps), np.int64), np.empty(len(maps))
    for index, mass in enumerate(maps):
        counts[index], largest[index] = parts(mass, smallest_set(mass, share))
    return Localisation(counts, largest, spatial_entropy(maps, cells))


def smallest_set(mass: Float[np.ndarray, "h w"], share: float = 0.5) -> Bool[np.ndarray, "h w"]:
    """The smallest set of pixels that holds at least `share` of the mass: the largest ones, earlier ones first."""
    order = np.argsort(-mass.ravel(), kind="stable")
    held = np.cumsum(mass.ravel()[order])
    few = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1
    chosen = np.zeros(mass.size, bool)
    chosen[order[:few]] = True
    return chosen.reshape(mass.shape)


def parts(mass: Float[np.ndarray, "h w"], chosen: Bool[np.ndarray, "h w"]) -> tuple[int, float]:
    """Number of connected parts of a set of pixels (by side or corner), and the share of its mass in the largest."""
    label, count = scipy.ndimage.label(chosen, _TOUCHING)
    held = np.bincount(label.ravel(), weights=mass.ravel(), minlength=count + 1)[1:]
    return int(count), float(held.max() / held.sum())


def spatial_entropy(maps: Float[np.ndarray, "m h w"], cells: int = 4) -> Float64[np.ndarray, " m"]:
    """−Σ q log₂ q of the shares q of the mass in the cells of a grid: 0 to 2 log₂ cells bits.

    The entropy over single pixels does not change when pixels change places, so it says nothing of where they lie; that
    over cells does.

    Raises:
        InputError: the maps have fewer pixels a side than the grid has cells.
    """
    height, width = maps.shape[1:]
    if cells < 1 or cells > min(height, width):
        raise InputError(f"a grid of {cells} cells a side does not fit maps of {height} by {width}")
    tops, lefts = ((np.arange(cells) * side) // cells for side in (height, width))
    held = np.add.reduceat(np.add.reduceat(np.asarray(maps, np.float64), tops, axis=1), lefts, axis=2)
    q = held.reshape(len(maps), -1) / held.sum((1, 2))[:, None]
    return np.asarray(-(q * np.log2(np.where(q > 0, q, 1.0))).sum(1))


def dealt_again(
    maps: Float[np.ndarray, "m h w"], varies: Bool[np.ndarray, "h w"], generator: np.random.Generator
) -> Float[np.ndarray, "m h w"]:
    """The values of each map dealt out at random among the pixels that vary, each map in its own way: a null."""
    dealt = maps.copy()
    dealt[:, varies] = generator.permuted(maps[:, varies], axis=1)
    return dealt
