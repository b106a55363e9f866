"""How much of what lies near in many dimensions lies near on a map."""

import numpy as np
from jaxtyping import Float, Int64

_DISTANCES = 1 << 22  # numbers held at once


def neighbours_kept(
    points: Float[np.ndarray, "n d"],
    places: Float[np.ndarray, "n 2"],
    k: int,
    queries: Int64[np.ndarray, " q"],
) -> float:
    """Mean share of a point's k nearest others that are among the k nearest to it on the map (Euclidean).

    By chance it is k / (n − 1).

    Args:
        points: where they are.
        places: where the map has them.
        k: how many count as near.
        queries: the points that are asked; all points are candidates.
    """
    shared = []
    for part in np.array_split(queries, max(1, -(-len(queries) * len(points) // _DISTANCES))):
        near = [np.sort(_nearest(space, part, k), axis=1) for space in (points, places)]
        shared.append((near[0][:, :, None] == near[1][:, None, :]).any(2).mean(1))
    return float(np.concatenate(shared).mean())


def _nearest(points: Float[np.ndarray, "n d"], queries: Int64[np.ndarray, " q"], k: int) -> Int64[np.ndarray, "q k"]:
    asked = points[queries]
    distance = np.square(points).sum(1)[None] - 2 * asked @ points.T
    distance[np.arange(len(queries)), queries] = np.inf
    return np.argpartition(distance, k - 1, axis=1)[:, :k]
