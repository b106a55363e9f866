"""Matryoshka: each nested dictionary reconstructs by itself, worked out by hand."""

import pytest
import torch

from unweave.dictionaries.base import Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.matryoshka import Matryoshka, MatryoshkaSAE


def _by_hand() -> MatryoshkaSAE:
    """Two latents, the first of which is a dictionary by itself; rows of width 2."""
    sae = Matryoshka(d_sae=2, k=2, prefixes=(0.5, 1.0), aux=0.0, decoder_norm="free").build(2)
    sae.W_enc.data.copy_(torch.eye(2))
    sae.W_dec.data.copy_(torch.tensor([[1.0, 0], [1, 1]]))
    sae.b_dec.data.copy_(torch.tensor([0.0, 1]))
    return sae


# x = (3, 5), so f = x − b_dec = (3, 4). With the first latent alone x̂ = 3 (1, 0) + (0, 1), which misses (0, 4): 16.
# With both x̂ = 3 (1, 0) + 4 (1, 1) + (0, 1) = (7, 5), which misses (−4, 0): 16. The mean of 16 and 16 is 16.
ROW = torch.tensor([[3.0, 5.0]])
# ∂loss/∂x̂, the mean over the dictionaries that a latent is part of: latent 0 is in both, −(r₁ + r₂) = (4, −4); latent 1
# in the larger one, −r₂ = (4, 0). From there ∂W_dec = f times it, and ∂f is its product with the decoder row.
D_CODES = torch.tensor([4.0, 4.0])
GRADIENTS = {
    "W_dec": torch.tensor([[12.0, -12], [16, 0]]),
    "b_enc": D_CODES,
    "W_enc": torch.outer(torch.tensor([3.0, 4]), D_CODES),
    "b_dec": torch.tensor([4.0, -4]) - D_CODES,  # through x̂ and, the encoder being the identity, through f
}


def test_loss_and_gradients_by_hand() -> None:
    sae = _by_hand()
    losses = sae.loss(ROW, Step(0))
    losses.total.backward()
    assert float(losses.total.detach()) == 16
    assert float(losses.error) == 16
    for name, expected in GRADIENTS.items():
        torch.testing.assert_close(sae.get_parameter(name).grad, expected)


@pytest.mark.parametrize("make", [TorchKernels, CompiledKernels])
def test_the_sparse_step_by_hand(make: type[TorchKernels]) -> None:
    sae, kernels = _by_hand(), make()
    with kernels:
        losses = sae.gradients(ROW, Step(0), kernels)
    assert float(losses.total) == 16
    assert float(losses.error) == 16
    for name, expected in GRADIENTS.items():
        torch.testing.assert_close(sae.get_parameter(name).grad, expected)


def test_the_loss_and_the_error_part_where_dictionaries_differ() -> None:
    sae = _by_hand()
    sae.W_dec.data[1] = torch.tensor([0.0, 1])  # now both together miss nothing
    losses = sae.loss(ROW, Step(0))
    assert float(losses.total.detach()) == 8  # half of what the first misses
    assert float(losses.error) == 0  # of the whole dictionary


def test_with_one_dictionary_it_is_batch_topk() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(20, 5, generator=generator)
    dead = torch.arange(30) % 4 == 0
    found = []
    for config in (Matryoshka(d_sae=30, k=3, prefixes=(1.0,)), BatchTopK(d_sae=30, k=3)):
        sae = config.build(5)
        for parameter in sae.parameters():
            parameter.data.normal_(generator=generator.manual_seed(1))
        losses = sae.loss(batch, Step(3, 10, dead))
        losses.total.backward()
        found.append([losses.total.detach(), *(parameter.grad for parameter in sae.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_later_latents_do_not_move_what_the_first_ones_reconstruct() -> None:
    """With the later latents' codes held out of it, the loss of the first dictionary alone trains the first rows."""
    sae = Matryoshka(d_sae=8, k=8, prefixes=(0.25, 1.0), aux=0.0, decoder_norm="free").build(4)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.normal_(generator=generator)
    batch = torch.randn(12, 4, generator=generator)
    part = sae.encode(batch).detach()
    part[:, 2:] = 0
    missed = float((batch - sae.decode(part)).detach().square().sum(1).mean())
    whole = float(sae.loss(batch, Step(0)).error)
    assert float(sae.loss(batch, Step(0)).total.detach()) == pytest.approx((missed + whole) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("d_sae", "prefixes", "sizes"),
    [
        (1024, (0.0625, 0.125, 0.25, 0.5, 1.0), [64, 128, 256, 512, 1024]),
        (10, (0.25, 0.61, 1.0), [2, 6, 10]),
        (7, (1.0,), [7]),
    ],
)
def test_sizes_of_the_nested_dictionaries(d_sae: int, prefixes: tuple[float, ...], sizes: list[int]) -> None:
    assert Matryoshka(d_sae=d_sae, k=2, prefixes=prefixes).sizes() == sizes
