"""How many principal components explain as much as a dictionary does."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def components_to_match(
    explained_variance: float,
    blocks: Iterable[Float[Tensor, "_ d_in"]],
    mean: Float[Tensor, " d_in"],
    components: Float[Tensor, "m d_in"],
) -> float:
    """The smallest number of leading components whose reconstruction explains at least that much variance.

    Args:
        explained_variance: what has to be reached on the rows.
        blocks: the rows, a block at a time.
        mean: what the components were fitted about.
        components: orthonormal rows by falling variance.

    Returns:
        The number, or NaN where all of them do not reach it.
    """
    kept = torch.zeros(len(components), dtype=torch.float64)
    total, drift, n = 0.0, torch.zeros(len(mean), dtype=torch.float64), 0
    for block in blocks:
        centred = block.double().cpu() - mean.double().cpu()
        kept += (centred @ components.double().cpu().T).square().sum(0)
        total += float(centred.square().sum())
        drift += centred.sum(0)
        n += len(centred)
    variance = total - float(drift.square().sum()) / n
    reached = 1 - (total - kept.cumsum(0)) / variance
    enough = (reached >= explained_variance).nonzero()
    return float(enough[0]) + 1 if len(enough) else float("nan")
