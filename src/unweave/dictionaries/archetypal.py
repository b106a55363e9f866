"""Archetypal sparse autoencoder: a decoder made of data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Losses, Step, best_gain
from unweave.dictionaries.classical import sample_rows
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kmeans import cluster
from unweave.dictionaries.sparse_step import gradient
from unweave.dictionaries.starts import geometric_median
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.store.rows import RowSource

_ROWS_A_CLUSTER = 16
_CLUSTER_ITERATIONS = 20
_GAIN_ROWS = 8192
_ROUNDS = 64
_SUM_WITHIN = 1e-6


@register("archetypal")
@dataclass(frozen=True, kw_only=True)
class Archetypal(TopK):
    """Archetypal sparse autoencoder, relaxed: TopK whose decoder is made of data, W_dec = A C + Λ.

    The rows of C [n_points, d_in] are points of the data as seen from the start of b_dec, in units of their root mean
    square length; those of A [d_sae, n_points] are not negative and sum to 1, so that A C lies in the points' convex
    hull; ‖Λ_j‖ ≤ delta lets a latent leave it that far. Fel et al. (2025), "Archetypal SAE: adaptive and stable
    dictionary learning for concept extraction in large vision models", https://arxiv.org/abs/2502.12892.

    After each step A goes to the nearest matrix and Λ to the nearest one that are allowed. Latents of length 1, the
    default, are the same directions, A C + Λ divided by its length (the hull becomes its cone, as with the paper's
    multiplier). Which points there are depends on the data and `points_seed` alone, so that trainings that differ in
    their seed share them. A step costs what one of TopK does, and two products of A's size with the points.
    """

    n_points: int = 1024
    "points of which latents are made; where there are fewer rows, they repeat"
    points: Literal["rows", "kmeans"] = "rows"
    "what the points are: rows drawn from the data, or the centres of clusters of 16 times as many (the start is slow)"
    points_seed: int = 0
    "decides which points there are, whatever the seed of the training"
    delta: float = 0.1
    "how far a latent may lie from the points' hull, in units of the points' length; 0: archetypal without relaxation"
    init: Literal["tied", "data", "kaiming", "torch"] = "tied"
    "start of the encoder: the decoder's transpose, scaled to reconstruct best (tied, data), or uniform within \
√(6/fan_in) (kaiming) or 1/√fan_in (torch); decoder rows start between two random points each"
    decoder_norm: Literal["unit", "free"] = "unit"
    "length of decoder rows: 1, or what the points give"
    decoder_rate: float = 1.0
    "here 1: decoder rows are made of points and have no learning rate of their own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_points < 1:
            raise InputError(f"n_points must be at least 1, got {self.n_points}")
        if not 0 <= self.delta < float("inf"):
            raise InputError(f"delta must be at least 0, got {self.delta}")
        if self.decoder_rate != 1:
            raise InputError(f"archetypal has one learning rate, so decoder_rate must be 1, got {self.decoder_rate}")
        if self.resample is not None:
            raise InputError("archetypal makes its latents of points and cannot resample them; use aux to revive them")

    @classmethod
    def example(cls) -> "Archetypal":
        """A small one that conformance tests take."""
        return cls(d_sae=32, k=3, n_points=96)

    def build(self, d_in: int) -> "ArchetypalSAE":
        """An untrained dictionary for rows of width d_in."""
        return ArchetypalSAE(self, d_in)


class ArchetypalSAE(TopKSAE):
    """TopK with W_dec = A C + Λ, its rows brought to length 1 unless they are free.

    Learned are A (`mix`) and Λ (`shift`); C (`points`) is a buffer. While it trains, W_dec is made of them wherever it
    is asked for; in inference it is a buffer too, so that a saved dictionary reads like any other.
    """

    config: Archetypal
    points: Tensor

    def __init__(self, config: Archetypal, d_in: int) -> None:
        super().__init__(config, d_in)
        del self.W_dec  # the parameter; from here on the property below
        self._held: tuple[Tensor, ...] = ()
        self.register_buffer("W_dec", torch.zeros(self.d_sae, d_in))
        self.register_buffer("points", torch.zeros(config.n_points, d_in))
        self.mix = nn.Parameter(torch.full((self.d_sae, config.n_points), 1 / config.n_points))
        self.shift = nn.Parameter(torch.zeros(self.d_sae, d_in))

    @property
    def W_dec(self) -> Tensor:  # type: ignore[override]  # noqa: N802 - computed here, a parameter in other kinds
        """The decoder: what `points`, `mix` and `shift` make, or in inference what they made."""
        if self._held:
            return self._held[0]
        return self.compose() if self.training else self._made()

    def compose(self) -> Float[Tensor, "d_sae d_in"]:
        """A C + Λ, of length 1 unless free."""
        made = torch.addmm(self.shift, self.mix, self.points)
        if self.config.decoder_norm == "free":
            return made
        # In one dimension a length of 1 leaves nothing to learn, and the rounding of a division would pass for a slope.
        return made.sign() if self.d_in == 1 else normalize(made, dim=1)

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Choose the points, and set the starting weights."""
        if rows.d_in != self.d_in:
            raise InputError(f"the dictionary takes rows of width {self.d_in}, the data has {rows.d_in}")
        if self.config.b_dec == "mean":
            self.b_dec.copy_(rows.moments().mean)
        elif self.config.b_dec == "median":
            self.b_dec.copy_(geometric_median(rows))
        self.points.copy_(self._choose_points(rows))
        pair = torch.randint(self.config.n_points, (self.d_sae, 2), generator=generator)
        share = 0.5 + 0.5 * torch.rand(self.d_sae, 1, generator=generator)
        start = torch.zeros(self.mix.shape).scatter_add(1, pair, torch.cat([share, 1 - share], 1))
        self.mix.copy_(start)
        if self.config.init in {"tied", "data"}:
            decoder = self.compose()
            self.W_enc.copy_(decoder.T / decoder.square().sum(1).clamp_min(torch.finfo(decoder.dtype).eps))
            with self._holding(decoder):
                self.W_enc.mul_(best_gain(self, rows, self.b_dec, most=_GAIN_ROWS))
        else:
            bound = ((6 if self.config.init == "kaiming" else 1) / self.d_in) ** 0.5
            self.W_enc.copy_((2 * torch.rand(self.W_enc.shape, generator=generator) - 1) * bound)

    def _choose_points(self, rows: RowSource) -> Float[Tensor, "n_points d_in"]:
        wanted, generator = self.config.n_points, torch_generator(self.config.points_seed, "points")
        clustered = self.config.points == "kmeans"
        sample = sample_rows(rows, wanted * (_ROWS_A_CLUSTER if clustered else 1), generator)
        seen = sample.double() - self.b_dec.cpu().double()
        length = float(seen.square().sum(1).mean()) ** 0.5
        seen = (seen / (length or 1.0)).float()
        if clustered:
            return cluster(seen, wanted, _CLUSTER_ITERATIONS, generator)[0]
        return seen.repeat(-(-wanted // len(seen)), 1)[:wanted]

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """Squared error of a row plus AuxK, with autograd's graph."""
        with self._holding(self.compose()):
            return super().loss(batch, step)

    @torch.no_grad()
    def gradients(self, batch: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> Losses:
        """Write into each parameter's `grad` what `loss(batch, step).total.backward()` would.

        The sparse step gives the gradient of W_dec; from there to A and Λ it is autograd's.
        """
        with torch.enable_grad():
            decoder = self.compose()
        leaf = nn.Parameter(decoder.detach())
        with self._holding(leaf):
            losses = super().gradients(batch, step, kernels)
        parameters = (self.mix, self.shift)
        for parameter, found in zip(parameters, torch.autograd.grad(decoder, parameters, leaf.grad), strict=True):
            gradient(parameter).copy_(found)
        return losses

    def unit_rows(self) -> Mapping[str, float]:
        """None: it is not the parameters that have length 1."""
        return {}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Bring A and Λ back to what is allowed; what was made of them before counts no more."""
        self.mix.copy_(nearest_in_simplex(self.mix))
        length = self.shift.norm(dim=1, keepdim=True)
        self.shift.mul_((self.config.delta / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0))
        self._made().zero_()

    def train(self, mode: bool = True) -> "ArchetypalSAE":
        """Between training and inference: W_dec is forgotten, or made once and kept."""
        if mode:
            self._made().zero_()
        elif not self._made().any():
            self._made().copy_(self.compose().detach())
        super().train(mode)
        return self

    def _made(self) -> Tensor:
        """The buffer behind W_dec: zero until it is made."""
        made = self._buffers["W_dec"]
        assert made is not None
        return made

    @contextmanager
    def _holding(self, decoder: Tensor) -> Iterator[None]:
        """Within, this is the decoder."""
        self._held = (decoder,)
        try:
            yield
        finally:
            self._held = ()


def nearest_in_simplex(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """For each row, the nearest one that is not negative and sums to 1: max(w − τ, 0) for the τ that gives that sum.

    τ is found by Newton's method from below, which for a sum of ramps ends after a few rounds (Michelot, 1986).
    """
    tau = (weights.sum(1, keepdim=True) - 1) / weights.shape[1]
    kept = (weights - tau).relu_()
    for _ in range(_ROUNDS):
        over = kept.sum(1, keepdim=True) - 1
        if not float(over.max()) > _SUM_WITHIN:
            break
        tau += over / kept.sign().sum(1, keepdim=True)  # counting truth values takes ten times as long
        torch.sub(weights, tau, out=kept).relu_()
    return kept / kept.sum(1, keepdim=True)
