"""Which kernels a machine has."""

import importlib.util

import torch

from unweave.dictionaries.kernels.base import Kernels, Precision
from unweave.dictionaries.kernels.reference import TorchKernels


def choose_kernels(device: torch.device, *, workers: int = 1, precision: Precision = "float32") -> Kernels:
    """The fastest kernels that this machine has for a device.

    Args:
        device: where the weights lie.
        workers: CPU threads that share a step.
        precision: of the encoder's product.
    """
    if device.type == "cpu" and importlib.util.find_spec("numba"):
        from unweave.dictionaries.kernels.compiled import CompiledKernels  # noqa: PLC0415 - Numba takes a second

        return CompiledKernels(precision, workers=workers)
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        from unweave.dictionaries.kernels.fused import TritonKernels  # noqa: PLC0415 - only where there is a GPU

        return TritonKernels(precision)
    return TorchKernels(precision)
