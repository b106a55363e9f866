"""Matryoshka sparse autoencoder, over BatchTopK."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.batch_topk import BatchTopKSAE
from unweave.dictionaries.kernels import Entries, Groups, Kernels
from unweave.dictionaries.sae import Forward
from unweave.dictionaries.sparse_step import Missed, gradient
from unweave.dictionaries.topk import LargestConfig


@register("matryoshka")
@dataclass(frozen=True, kw_only=True)
class Matryoshka(LargestConfig):
    """Matryoshka sparse autoencoder: nested dictionaries, each of which has to reconstruct the rows by itself.

    Bussmann, Nabeshima, Karvonen & Nanda (2025), "Learning multi-level features with Matryoshka sparse autoencoders",
    https://arxiv.org/abs/2503.17547. Codes as BatchTopK's; with x̂_m the reconstruction from the first m latents alone,
    loss = mean over the prefixes m of ‖x − x̂_m‖², + aux. Early latents stay general: they cannot leave part of what
    they stand for to later, finer ones.
    """

    prefixes: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    "sizes of the nested dictionaries, as rising shares of d_sae up to 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.sizes()
        if not sizes or self.prefixes[-1] != 1 or sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
            raise InputError(
                f"prefixes must rise from a share that holds at least one of {self.d_sae} latents up to 1, got "
                f"{self.prefixes}"
            )

    def sizes(self) -> list[int]:
        """Latents of each nested dictionary."""
        return [round(share * self.d_sae) for share in self.prefixes]

    def build(self, d_in: int) -> "MatryoshkaSAE":
        """An untrained dictionary for rows of width d_in."""
        return MatryoshkaSAE(self, d_in)


class MatryoshkaSAE(BatchTopKSAE):
    """f as BatchTopK's; x̂_m = the first m entries of f, through W_dec, + b_dec."""

    planted_bound: ClassVar[float] = 0.8  # early latents stand for several directions at once
    config: Matryoshka

    def reconstruction_loss(self, batch: Float[Tensor, "b d_in"], forward: Forward, step: Step) -> Float[Tensor, ""]:
        """The mean over the nested dictionaries."""
        left, start, losses = batch - self.b_dec, 0, []
        for size in self.config.sizes():
            left = left - forward.codes[:, start:size] @ self.W_dec[start:size]
            losses.append(self.per_row(left.square().sum(-1)).mean())
            start = size
        return torch.stack(losses).mean()

    def entry_reconstruction(
        self,
        batch: Float[Tensor, "b d_in"],
        entries: Entries,
        groups: Groups,
        codes: Float[Tensor, " nnz"],
        share: float,
        kernels: Kernels,
    ) -> Missed:
        """The same, ring by ring: the latents that a nested dictionary has beyond the one before it."""
        sizes = self.config.sizes()
        starts = [0, *sizes[:-1]]
        rings = [
            _ring(entries, groups, codes, (entries.latent >= start) & (entries.latent < end), kernels, self.d_sae)
            for start, end in zip(starts, sizes, strict=True)
        ]
        left: list[Tensor] = []
        squares, none = [], torch.zeros_like(self.b_dec)
        for ring in rings:
            before, bias = (left[-1], none) if left else (batch, self.b_dec)
            residual, _, square = kernels.reconstruct(before, ring.entries, ring.codes, self.W_dec, bias)
            left.append(residual)
            squares.append(square)
        d_codes = torch.zeros_like(codes)
        pull = torch.zeros_like(batch)
        decoder = gradient(self.W_dec)
        decoder.zero_()
        for ring, residual in zip(reversed(rings), reversed(left), strict=True):
            pull += residual / len(sizes)  # a latent is part of every nested dictionary from its ring on
            dots = kernels.dots(pull, ring.entries, self.W_dec) * (-2 * share)
            if ring.places is not None:
                d_codes[ring.places] = dots
            else:
                d_codes += torch.where(ring.inside, dots, 0.0)
            kernels.accumulate(ring.groups, ring.codes, pull, out=decoder, scale=-2 * share, add=True)
        loss = torch.stack(squares).mean() * share
        return Missed(loss, squares[-1], left[-1], pull, d_codes)


@dataclass(frozen=True, eq=False)
class _Ring:
    """The entries of one ring: alone, at `places` among all; or all of them, those outside with a code of 0."""

    entries: Entries
    groups: Groups
    codes: Float[Tensor, " nnz"]
    inside: Bool[Tensor, " all"]
    places: Int64[Tensor, " nnz"] | None


def _ring(
    entries: Entries,
    groups: Groups,
    codes: Float[Tensor, " nnz"],
    inside: Bool[Tensor, " nnz"],
    kernels: Kernels,
    d_sae: int,
) -> _Ring:
    if entries.padded:  # on a device whose queue would stop if it were asked how many there are
        return _Ring(entries, groups, torch.where(inside, codes, 0.0), inside, None)
    places = inside.nonzero().squeeze(1)
    offsets = torch.searchsorted(places, entries.offsets.long()).to(torch.int32)
    alone = Entries(offsets, entries.latent[places], codes[places])
    return _Ring(alone, kernels.group(alone, d_sae), alone.value, inside, places)
