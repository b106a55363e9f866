"""Independent components."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, best_gain
from unweave.dictionaries.classical import (
    ClassicalConfig,
    finite_moments,
    log_fit,
    sample_rows,
    settling_is_logged,
)
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.one_sided import OneSidedConfig, both_sides
from unweave.dictionaries.sae import keep_largest
from unweave.store.rows import RowSource, TensorRows

_CHUNK = 8192
_SMALLEST_SHARE = 1e-8  # of the largest variance: below it, whitening would amplify the rounding of float32 rows
_ROUNDING = 1e-12  # of the rows' mean square: a variance below it is their rounding
_TRIED_ROWS = 4096
_TURNS = 4
_CHANCE = 1  # in units of 1/n: what turning a pair gains by chance mostly lies below
_GAUSSIAN_LOG_COSH = 0.3745672075  # E log cosh of a standard normal variable


@register("ica")
@dataclass(frozen=True, kw_only=True)
class ICA(OneSidedConfig, ClassicalConfig):
    """Independent components as a dictionary: latent j is component j's positive side, latent n + j its negative.

    FastICA: x − mean = A s with components s of unit variance that are as far from Gaussian as can be. Hyvärinen and
    Oja (2000), "Independent component analysis: algorithms and applications". The rows are projected on their leading
    principal components and whitened; the rotation that is left comes from scikit-learn. Components stand by falling
    share of variance, the largest entry of each direction is positive, and codes are scaled so that directions have
    length 1. Directions with (nearly) no variance hold nothing to take apart: they stay principal components.

    The iteration can end half-way between two components, at a saddle. Where a pair is less Gaussian when turned by 45°
    it is turned, and the iteration goes on: Tichavský, Koldovský and Oja (2006), "Performance analysis of the FastICA
    algorithm and Cramér–Rao bounds for linear independent component analysis".

    With all d_in components and without k the reconstruction is exact.
    """

    n_components: int | None = None
    "components, two latents each; d_in by default"
    fun: Literal["logcosh", "exp", "cube"] = "logcosh"
    "nonlinearity: logcosh serves all, exp suits rare and strong components, cube those that are flatter than Gaussian"

    def __post_init__(self) -> None:
        OneSidedConfig.__post_init__(self)
        ClassicalConfig.__post_init__(self)
        if self.n_components is not None and self.n_components < 1:
            raise InputError(f"n_components must be at least 1, got {self.n_components}")

    def build(self, d_in: int) -> "ICADictionary":
        """A dictionary of two latents for each component.

        Raises:
            InputError: there are more components than a row has entries.
        """
        if d_in > 0 and self.n_components is not None and self.n_components > d_in:
            raise InputError(
                f"rows of width {d_in} have at most {d_in} components, got n_components {self.n_components}"
            )
        return ICADictionary(self, d_in, 2 * (self.n_components or d_in))


class ICADictionary(Dictionary):
    """f = the k largest positive entries of (x − b_dec) W_enc; x̂ = f W_dec + b_dec.

    Shapes: W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec [d_in]. Rows of W_dec are the mixing directions, columns of
    W_enc take a row apart: where the components are not orthogonal the two differ. W_dec carries the one gain that
    makes reconstructions best in least squares on the fitted rows; without k it is 1.
    """

    trained_by_gradient: ClassVar[bool] = False
    config: ICA
    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, config: ICA, d_in: int, d_sae: int) -> None:
        super().__init__(config, d_in, d_sae)
        self.register_buffer("W_enc", torch.zeros(d_in, d_sae))
        self.register_buffer("W_dec", torch.zeros(d_sae, d_in))
        self.register_buffer("b_dec", torch.zeros(d_in))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Fit all of it to a sample of rows; `history` says how many of `max_iter` iterations it took."""
        self.b_dec.copy_(finite_moments(self, rows).mean)
        sample = sample_rows(rows, self.config.fit_rows, generator)
        unmixing, mixing, iterations = _components(sample, self.d_sae // 2, self.config, generator)
        self.W_enc.copy_(both_sides(unmixing.float()).T)
        self.W_dec.copy_(both_sides(mixing.float()))
        self.W_dec.mul_(best_gain(self, TensorRows(sample), self.b_dec, most=len(sample)))
        log_fit(self, sample, iterations)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense; in float64 where the device has it, as what takes rows apart magnifies rounding."""
        exact = torch.float32 if x.device.type == "mps" else torch.float64  # Metal has no float64
        pre = (x.to(exact) - self.b_dec) @ self.W_enc.to(exact)
        codes = torch.relu(pre) if self.config.k is None else keep_largest(pre, min(self.config.k, self.d_sae))
        return codes.to(self.W_enc.dtype)

    def saelens(self) -> Exchange:
        """SAELens' standard autoencoder, or its topk."""
        tensors = {"W_enc": self.W_enc, "b_enc": self.b_dec.new_zeros(self.d_sae), "W_dec": self.W_dec}
        k = None if self.config.k is None else min(self.config.k, self.d_sae)
        return Exchange.linear({**tensors, "b_dec": self.b_dec}, k)

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec + b_dec."""
        return codes @ self.W_dec + self.b_dec

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row: the rows of W_dec."""
        return self.W_dec


def _components(
    sample: Float[Tensor, "n d_in"], n_components: int, config: ICA, generator: torch.Generator
) -> tuple[Float64[Tensor, "m d_in"], Float64[Tensor, "m d_in"], int]:
    """What takes rows apart, the directions (of length 1) that they are mixed of, and the iterations it took."""
    mean = sample.double().mean(0)
    deviation, axes = _principal_axes(sample, mean, n_components)
    m = len(deviation)
    whitening = axes[:m] / deviation[:, None]
    white = torch.cat([((chunk.double() - mean) @ whitening.T).float() for chunk in sample.split(_CHUNK)])
    rotation, iterations = _independent(white, config, generator)
    mixing = rotation @ (deviation[:, None] * axes[:m])
    length = mixing.norm(dim=1, keepdim=True)
    order = length[:, 0].argsort(descending=True, stable=True)
    unmixing = torch.cat([(length * (rotation @ whitening))[order], axes[m:]])
    mixing = torch.cat([(mixing / length)[order], axes[m:]])
    sign = mixing.gather(1, mixing.abs().argmax(1, keepdim=True)).sign()
    return sign * unmixing, sign * mixing, iterations


def _principal_axes(
    sample: Float[Tensor, "n d_in"], mean: Float64[Tensor, " d_in"], n: int
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "n_axes d_in"]]:
    """The first n principal axes in rows, and the standard deviations of those m of them that have variance."""
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in sample.split(_CHUNK):
        centred = chunk.double() - mean
        covariance += centred.T @ centred / len(sample)
    values, vectors = torch.linalg.eigh(covariance)
    values, axes = values.flip(0)[:n], vectors.flip(1).T[:n]
    rounding = _ROUNDING * float(covariance.trace() + mean.square().sum())
    m = int((values > max(rounding, _SMALLEST_SHARE * float(values[0]))).sum())
    return values[: min(m, len(sample) - 1)].sqrt(), axes


def _independent(
    white: Float[Tensor, "n m"], config: ICA, generator: torch.Generator
) -> tuple[Float64[Tensor, "m m"], int]:
    """The rotation (in rows) of white rows to their independent components, and the iterations it took."""
    m = white.shape[1]
    if not m:
        return torch.zeros(0, 0, dtype=torch.float64), 0
    rotation, iterations = torch.randn(m, m, generator=generator), 0
    for _ in range(_TURNS):
        rotation, more = _fast_ica(white, rotation, config.fun, config.max_iter - iterations)
        iterations += more
        pairs = _pairs_to_turn(white[:: -(-len(white) // _TRIED_ROWS)] @ rotation.T)
        if iterations >= config.max_iter or not pairs:
            break
        for i, j in pairs:
            rotation[i], rotation[j] = _turned(rotation[i], rotation[j])
    left, _, right = torch.linalg.svd(rotation.double())
    return left @ right, iterations  # orthogonal to the last bit


def _fast_ica(
    white: Float[Tensor, "n m"], start: Float[Tensor, "m m"], fun: str, max_iter: int
) -> tuple[Float[Tensor, "m m"], int]:
    from sklearn.decomposition import FastICA  # noqa: PLC0415 - a second of imports that only a fit needs

    fit = FastICA(whiten=False, fun=fun, max_iter=max_iter, w_init=start.numpy())
    with settling_is_logged():
        fit.fit(white.numpy())
    return torch.from_numpy(fit.components_).float(), int(fit.n_iter_)


def _pairs_to_turn(components: Float[Tensor, "n m"]) -> list[tuple[int, int]]:
    """Pairs of components, each in one pair at most, that are less Gaussian when turned by 45°."""
    m = components.shape[1]
    now, gains = _negentropy(components), torch.zeros(m, m)
    for i in range(m - 1):
        plus, minus = _turned(components[:, i : i + 1], components[:, i + 1 :])
        gains[i, i + 1 :] = _negentropy(plus) + _negentropy(minus) - now[i] - now[i + 1 :]
    gains[gains < _CHANCE / len(components)] = 0
    pairs = []
    while gains.max() > 0:
        i, j = divmod(int(gains.argmax()), m)
        pairs.append((i, j))
        for taken in (i, j):
            gains[taken] = gains[:, taken] = 0
    return pairs


def _turned(one: Float[Tensor, "*a"], other: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    return (one + other) / 2**0.5, (one - other) / 2**0.5


def _negentropy(components: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """How far from Gaussian each component is: (E log cosh s − E log cosh ν)² with ν standard normal."""
    magnitude = components.abs()
    # log cosh s = |s| + log(1 + exp(−2|s|)) − log 2, which no s overflows
    mean = (magnitude + torch.log1p(torch.exp(-2 * magnitude))).mean(0) - math.log(2)
    return (mean - _GAUSSIAN_LOG_COSH).square()
