"""Where the weights of a sparse autoencoder start."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.dictionaries.base import best_gain
from unweave.store.rows import RowSource

if TYPE_CHECKING:
    from unweave.dictionaries.sae import SAE

_GAIN_ROWS = 8192
_MEDIAN_ROWS = 65_536
_MEDIAN_STEPS = 100


@torch.no_grad()
def start_weights(sae: "SAE", rows: RowSource, generator: torch.Generator) -> None:
    """Set W_enc, W_dec and b_dec as the configuration's `init` and `b_dec` say."""
    config = sae.config
    if config.b_dec == "mean":
        sae.b_dec.copy_(rows.moments().mean)
    elif config.b_dec == "median":
        sae.b_dec.copy_(geometric_median(rows))
    if config.init in {"tied", "data"}:
        tied = config.init == "tied"
        start = torch.randn(sae.W_dec.shape, generator=generator) if tied else _data_directions(sae, rows, generator)
        sae.W_dec.copy_(nn.functional.normalize(start, dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
        if sae.scaled_start:
            sae.W_enc.mul_(best_gain(sae, rows, sae.b_dec, most=_GAIN_ROWS))
        return
    for weight in (sae.W_enc, sae.W_dec):
        bound = ((6 if config.init == "kaiming" else 1) / weight.shape[0]) ** 0.5
        weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
    if "W_dec" in sae.unit_rows():
        sae.W_dec.copy_(nn.functional.normalize(sae.W_dec, dim=1))


def _data_directions(sae: "SAE", rows: RowSource, generator: torch.Generator) -> Float[Tensor, "d_sae d_in"]:
    """Rows of the data as seen from b_dec, drawn over the whole source; noise where they are too few or too short."""
    wanted = torch.randint(rows.n, (sae.d_sae,), generator=generator).sort().values
    found, seen = [], 0
    for block in rows.blocks(8192):
        here = wanted[(wanted >= seen) & (wanted < seen + len(block))] - seen
        found.append(block[here.to(block.device)].cpu())
        seen += len(block)
    start = torch.cat(found) - sae.b_dec.cpu()
    start = start[torch.randperm(len(start), generator=generator)]
    noise = nn.functional.normalize(torch.randn(start.shape, generator=generator), dim=1)
    length = start.norm(dim=1, keepdim=True)
    # A little noise parts the latents that start at the same row.
    return torch.where(length > 0, start / length.clamp_min(torch.finfo(start.dtype).tiny) + 0.05 * noise, noise)


def geometric_median(rows: RowSource) -> Float[Tensor, " d_in"]:
    """The point with the smallest sum of distances to the first 65,536 rows.

    Weiszfeld (1937); where a step comes upon a row, as Vardi & Zhang (2000, "The multivariate L1-median and associated
    data depth"): it stays there if the others pull with less than the weight of that row, else it goes on.
    """
    blocks, seen = [], 0
    for block in rows.blocks(8192):
        blocks.append(block.cpu().double())
        seen += len(block)
        if seen >= _MEDIAN_ROWS:
            break
    points = torch.cat(blocks)
    median: Tensor = points.mean(0)
    spread = float((points - median).norm(dim=1).mean())
    for _ in range(_MEDIAN_STEPS):
        away = points - median
        distance = away.norm(dim=1)
        here = distance <= 1e-9 * spread
        weight = torch.where(here, 0.0, 1 / distance)
        pull = (away * weight[:, None]).sum(0)
        held = (float(here.sum()) / float(pull.norm().clamp_min(1e-300))) if here.any() else 0.0
        moved: Tensor = median + max(0.0, 1 - held) * pull / weight.sum().clamp_min(1e-300)
        if float((moved - median).norm()) <= 1e-7 * spread:
            return moved.float()
        median = moved
    return median.float()
