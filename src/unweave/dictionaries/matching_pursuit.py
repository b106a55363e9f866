"""Sparse autoencoder whose encoder is matching pursuit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig, Losses, Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Entries, Kernels
from unweave.dictionaries.sparse_step import gradient
from unweave.dictionaries.starts import geometric_median
from unweave.store.rows import RowSource

_CHUNK = 256
_GRAM_BYTES = 1 << 30
_ROUNDING = 1e-6  # of a row's length: a correlation below it is rounding


@register("matching-pursuit")
@dataclass(frozen=True, kw_only=True)
class MatchingPursuit(DictionaryConfig):
    """Matching-pursuit sparse autoencoder: k times, the decoder row that fits best is taken off what is left of x.

    With r₁ = x − b_dec and unit rows d_j of W_dec, step t takes j = argmax_j ⟨r_t, d_j⟩, adds a = ⟨r_t, d_j⟩ to f_j and
    leaves r_{t+1} = r_t − a d_j; it stops after k steps, or where no correlation is positive. x̂ = f W_dec + b_dec and
    loss = ‖x − x̂‖². Costa et al. (2025), "From flat to hierarchical: extracting sparse representations with matching
    pursuit", https://arxiv.org/abs/2506.03093, after Mallat and Zhang (1993), "Matching pursuits with time-frequency
    dictionaries". There is no encoder to learn: a latent is explained by what others have left, so that it may be
    anything between orthogonal to them and close by.
    """

    d_sae: int = 1024
    "number of latents"
    k: int = 32
    "steps of the pursuit, and so latents that may be active in a row"
    b_dec: Literal["mean", "median", "zero"] = "mean"
    "start of the decoder's bias: the mean of the rows, their geometric median, or zero"
    decoder_rate: float = 8.0
    "what the learning rate is multiplied with for decoder rows"
    reconstruction: Literal["sum", "mean"] = "sum"
    "squared error of a row: summed over its d_in entries, or averaged; always the mean over the batch"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d_sae:
            raise InputError(f"k must lie between 1 and d_sae ({self.d_sae}), got {self.k}")
        if not 0 < self.decoder_rate < float("inf"):
            raise InputError(f"decoder_rate must be above 0, got {self.decoder_rate}")

    def build(self, d_in: int) -> "MatchingPursuitSAE":
        """An untrained dictionary for rows of width d_in."""
        return MatchingPursuitSAE(self, d_in)


class MatchingPursuitSAE(Dictionary):
    """f = matching pursuit of x − b_dec in W_dec [d_sae, d_in], whose rows have length 1; x̂ = f W_dec + b_dec.

    The gradient is that of the loss with the latents that were chosen held fixed: the amounts follow the dictionary,
    the choices do not. It is exact wherever a small step changes no choice.
    """

    config: MatchingPursuit

    def __init__(self, config: MatchingPursuit, d_in: int) -> None:
        super().__init__(config, d_in, config.d_sae)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Start from unit rows in random directions."""
        if rows.d_in != self.d_in:
            raise InputError(f"the dictionary takes rows of width {self.d_in}, the data has {rows.d_in}")
        if self.config.b_dec == "mean":
            self.b_dec.copy_(rows.moments().mean)
        elif self.config.b_dec == "median":
            self.b_dec.copy_(geometric_median(rows))
        self.W_dec.copy_(normalize(torch.randn(self.W_dec.shape, generator=generator), dim=1))

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""
        centred = (x - self.b_dec).reshape(-1, self.d_in)
        latent, active = choose(centred.detach(), self.W_dec.detach(), self.config.k)
        amount, _ = self._take(centred, latent, active)
        return self._dense(latent, amount).view(*x.shape[:-1], self.d_sae)

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec + b_dec."""
        return codes @ self.W_dec + self.b_dec

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row: the rows of W_dec."""
        return self.W_dec.detach()

    def saelens(self) -> Exchange:
        """SAELens' matching_pursuit, with so many steps whatever they find."""
        tensors = {"W_dec": self.W_dec.detach(), "b_dec": self.b_dec.detach()}
        options = {"max_iterations": self.config.k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
        return Exchange(architecture="matching_pursuit", tensors=tensors, options=options)

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """Squared error of a row, the mean over the batch."""
        centred = batch - self.b_dec
        latent, active = choose(centred.detach(), self.W_dec.detach(), self.config.k)
        amount, residual = self._take(centred, latent, active)
        parts = {"reconstruction": residual.square().sum() * self._share(len(batch))}
        return Losses.of(parts, self._dense(latent, amount), residual)

    def has_sparse_step(self) -> bool:
        """Yes: the gradients follow the pursuit back."""
        return True

    @torch.no_grad()
    def gradients(self, batch: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> Losses:
        """Write into each parameter's `grad` what `loss(batch, step).total.backward()` would.

        With g = ∂loss/∂r after a step that took a·d off r, and s = ⟨g, d⟩: ∂loss/∂d −= a g + s r, and before the step
        ∂loss/∂r = g − s d. The residuals come back by the same way, r + a d.
        """
        centred = batch - self.b_dec
        latent, active = choose(centred, self.W_dec, self.config.k)
        amount, residual = self._take(centred, latent, active)
        decoder, share = gradient(self.W_dec), self._share(len(batch))
        before, slope = residual, residual * (2 * share)
        one_each = torch.arange(len(batch) + 1, dtype=torch.int32, device=batch.device)
        less = -torch.ones(len(batch), device=batch.device)
        decoder.zero_()
        for step_latent, a, on in reversed(list(zip(latent.T, amount.T[..., None], active.T[..., None], strict=True))):
            direction = embedding(step_latent, self.W_dec)
            along = (slope * direction).sum(1, keepdim=True) * on
            before = torch.addcmul(before, direction, a)
            entries = Entries(one_each, step_latent.to(torch.int32), a[:, 0])
            groups = kernels.group(entries, self.d_sae)
            kernels.accumulate(groups, less, torch.addcmul(slope * a, before, along), out=decoder, add=True)
            slope = torch.addcmul(slope, direction, along, value=-1)
        torch.sum(slope, 0, out=gradient(self.b_dec)).neg_()
        parts = {"reconstruction": residual.square().sum() * share}
        return Losses.of(parts, self._dense(latent, amount), residual)

    def unit_rows(self) -> Mapping[str, float]:
        """The decoder's."""
        return {"W_dec": self.config.decoder_rate}

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        self.b_dec.mul_(factor)

    def _take(
        self, rows: Float[Tensor, "b d_in"], latent: Int64[Tensor, "b steps"], active: Bool[Tensor, "b steps"]
    ) -> tuple[Float[Tensor, "b steps"], Float[Tensor, "b d_in"]]:
        """How much of each chosen latent the pursuit takes, and what it leaves."""
        amounts = []
        for chosen, on in zip(latent.T, active.T, strict=True):
            direction = embedding(chosen, self.W_dec)
            amounts.append((rows * direction).sum(1) * on)
            rows = torch.addcmul(rows, direction, amounts[-1][:, None], value=-1)
        return torch.stack(amounts, 1), rows

    def _dense(self, latent: Int64[Tensor, "b steps"], amount: Float[Tensor, "b steps"]) -> Float[Tensor, "b d_sae"]:
        return amount.new_zeros(len(latent), self.d_sae).scatter_add(1, latent, amount)

    def _share(self, rows: int) -> float:
        return 1 / (rows * (self.d_in if self.config.reconstruction == "mean" else 1))


@torch.no_grad()
def choose(
    rows: Float[Tensor, "b d_in"], directions: Float[Tensor, "d_sae d_in"], steps: int
) -> tuple[Int64[Tensor, "b steps"], Bool[Tensor, "b steps"]]:
    """Which direction each step of matching pursuit takes, and whether it takes any.

    Taking a·d_j off a row changes its correlations c = D r by −a D d_j, a row of the Gram matrix D Dᵀ. So the rows meet
    the dictionary in one product only. Where the rows are too few to pay for the Gram matrix, or it would not fit, what
    is left of them does at each step.

    Returns:
        Latents [b, steps], and False where a step finds no positive correlation; it then finds none later.
    """
    d_sae = len(directions)
    pays = len(rows) * steps > d_sae and d_sae**2 * directions.element_size() <= _GRAM_BYTES
    gram = directions @ directions.T if pays else None
    latent = torch.zeros(len(rows), steps, dtype=torch.int64, device=rows.device)
    active = torch.zeros(len(rows), steps, dtype=torch.bool, device=rows.device)
    chunk = _CHUNK if rows.device.type == "cpu" else max(1, len(rows))
    for at in range(0, len(rows), chunk):
        part = slice(at, at + chunk)
        _choose(rows[part], directions, gram, latent[part], active[part])
    return latent, active


def _choose(rows: Tensor, directions: Tensor, gram: Tensor | None, latent: Tensor, active: Tensor) -> None:
    correlation = rows @ directions.T
    least = _ROUNDING * rows.norm(dim=1)
    taken = torch.empty_like(correlation) if gram is not None else rows
    for step in range(latent.shape[1]):
        best = _largest(correlation)
        amount = correlation.gather(1, best[:, None])
        active[:, step] = amount[:, 0] > least
        latent[:, step] = best
        amount = amount * active[:, step, None]
        if gram is not None:
            torch.index_select(gram, 0, best, out=taken)
            correlation.addcmul_(taken, amount, value=-1)
        else:
            rows = torch.addcmul(rows, embedding(best, directions), amount, value=-1)
            correlation = rows @ directions.T


def _largest(values: Float[Tensor, "b m"]) -> Int64[Tensor, " b"]:
    """Place of the largest value of each row. NumPy finds it ten times as fast on a CPU."""
    return torch.from_numpy(values.numpy().argmax(1)) if values.device.type == "cpu" else values.argmax(1)
