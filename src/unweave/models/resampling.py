"""Resizing of images as Pillow does it, in floats: with gradients, on any device, for every filter that Pillow has.

A filter of support s at scale f = max(input / output, 1) gives output pixel i the weights w((j + ½ − c)/f) of the input
pixels j within s·f of its centre c = (i + ½) · input / output, normalised to sum 1. Rows and columns are filtered one
after the other. Nearest takes the pixel at ⌊c⌋. Source: `Resample.c` and `Geometry.c` of Pillow.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, repeat

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.framing import Filter


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).to(x.dtype)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _hamming(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)), 0.0)


def _bicubic(x: Tensor) -> Tensor:
    a, x = -0.5, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


_FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


@lru_cache(maxsize=64)
def weights(given: int, wanted: int, resample: Filter) -> Float[Tensor, "wanted given"]:
    """What each output pixel of a line takes of each input pixel; each row sums to 1. Not to be written into."""
    if resample == "nearest":
        steps = accumulate(repeat(given / wanted, wanted - 1), initial=given / wanted * 0.5)  # it rounds as Pillow does
        taken = torch.tensor([min(int(place), given - 1) for place in steps])
        return torch.nn.functional.one_hot(taken, given).float()
    centre = (torch.arange(wanted, dtype=torch.float64) + 0.5) * given / wanted
    shape, support = _FILTERS[resample]
    scale = max(given / wanted, 1.0)
    first = (centre - support * scale + 0.5).trunc().clamp(min=0)
    last = (centre + support * scale + 0.5).trunc().clamp(max=given)
    pixel = torch.arange(given, dtype=torch.float64)
    values = shape((pixel + 0.5 - centre[:, None]) / scale)
    values = torch.where((pixel >= first[:, None]) & (pixel < last[:, None]), values, 0.0)
    return (values / values.sum(1, keepdim=True)).float()


@lru_cache(maxsize=64)
def _on(device: torch.device, given: int, wanted: int, resample: Filter) -> Tensor:
    return weights(given, wanted, resample).to(device)


def resize(images: Float[Tensor, "b c h w"], height: int, width: int, resample: Filter) -> Float[Tensor, "b c H W"]:
    """Images in [0, 1] at another size; what the filters overshoot is cut off, as it is from bytes.

    Args:
        images: of any size.
        height: wanted.
        width: wanted.
        resample: the filter.
    """
    h, w = images.shape[2:]
    if w != width:
        images = (images @ _on(images.device, w, width, resample).T.to(images.dtype)).clamp(0, 1)
    if h != height:
        images = (_on(images.device, h, height, resample).to(images.dtype) @ images).clamp(0, 1)
    return images
