"""How two tensors are compared, and what is said where they differ."""

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.dictionaries.base import Dictionary
from unweave.testing.report import expect

CLOSE = 1e-4


def expect_close(
    actual: Tensor, expected: Tensor, what: str, *, within: float = CLOSE, least_scale: float = 0.0
) -> None:
    """Two tensors agree to `within`, relative to the largest entry of `expected`, or to `least_scale` if larger."""
    expect(actual.shape == expected.shape, f"{what}: the shape is {list(actual.shape)}, not {list(expected.shape)}")
    if not expected.numel():
        return
    found, wanted = actual.detach().double(), expected.detach().double()
    expect(bool(torch.isfinite(found).all()), f"{what}: there is NaN or Inf")
    scale = max(float(wanted.abs().max()), least_scale, torch.finfo(torch.float32).tiny)
    differences = (found - wanted).abs()
    worst = int(differences.argmax())
    place = [int(index) for index in torch.unravel_index(torch.tensor(worst), differences.shape)]
    expect(
        float(differences.max()) <= within * scale,
        f"{what}: entry {place} is {float(found.flatten()[worst]):.6g}, not {float(wanted.flatten()[worst]):.6g} "
        f"(of a scale of {scale:.3g}, so a difference of {within * scale:.2g} would pass)",
    )


def expect_same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    """Two tensors are the same to the last bit."""
    same = actual.dtype == expected.dtype and torch.equal(actual, expected)
    expect(same, f"{what}: not the same bits")


def expect_same_state(actual: Dictionary, expected: Dictionary, what: str) -> None:
    """Two dictionaries have the same weights and buffers to the last bit."""
    found, wanted = actual.state_dict(), expected.state_dict()
    expect(found.keys() == wanted.keys(), f"{what}: the state holds {sorted(found)}, not {sorted(wanted)}")
    for name, tensor in wanted.items():
        expect_same_bits(found[name], tensor, f"{what}: {name}")


def expect_finite(dictionary: Dictionary, what: str) -> None:
    """No weight or buffer is NaN or infinite."""
    for name, tensor in dictionary.state_dict().items():
        finite = bool(torch.isfinite(tensor).all()) if tensor.is_floating_point() else True
        expect(finite, f"{what}: {name} holds NaN or Inf")


def mean_l0(codes: Float[Tensor, "n d_sae"]) -> float:
    """Mean number of non-zero latents a row."""
    return float((codes != 0).sum(1).double().mean())
