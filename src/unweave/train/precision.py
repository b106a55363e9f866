"""How exactly a GPU multiplies float32 matrices while a dictionary trains on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unweave.dictionaries.kernels.base import Precision


@contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Let products of float32 take TF32 inside the block: on a CUDA device, unless `precision` is float32.

    It is a setting of the process, so it is put back. A CPU has no TF32.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
