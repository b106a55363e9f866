"""k-means: each row is the centre of its cluster."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.classical import (
    ClassicalConfig,
    finite_moments,
    log_fit,
    numpy_seed,
    sample_rows,
    settling_is_logged,
)
from unweave.store.rows import RowSource

_CHUNK = 4096
_TIE = 1e-6  # of the lengths that are compared: differences below it are the rounding of float32 products


@register("kmeans")
@dataclass(frozen=True, kw_only=True)
class KMeans(ClassicalConfig):
    """k-means as a dictionary: one latent a cluster, 1 for the nearest centre c_j and 0 for all others.

    x̂ = c_j = mean + 1·(c_j − mean): the sparsest code there is, one active latent without a value of its own. Lloyd
    (1982), "Least squares quantization in PCM", from the start of Arthur and Vassilvitskii (2007), "k-means++",
    both by scikit-learn on one core (on more, its sums depend on which thread ends first). No cluster is empty.
    """

    d_sae: int = 1024
    "number of clusters"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_sae > self.fit_rows:
            raise InputError(
                f"d_sae clusters need at least as many rows, got d_sae {self.d_sae}, fit_rows {self.fit_rows}"
            )

    def build(self, d_in: int) -> "KMeansDictionary":
        """A dictionary of d_sae latents."""
        return KMeansDictionary(self, d_in, self.d_sae)


class KMeansDictionary(Dictionary):
    """f = 1 at argmin_j ‖x − c_j‖; x̂ = f W_dec + b_dec with b_dec the mean of all rows, W_dec [d_sae, d_in] = c − mean.

    `scale` is the rows' root mean square about their mean: distances are compared in its units, which keeps their
    squares in range.
    """

    trained_by_gradient: ClassVar[bool] = False
    config: KMeans
    W_dec: Tensor
    b_dec: Tensor
    scale: Tensor

    def __init__(self, config: KMeans, d_in: int, d_sae: int) -> None:
        super().__init__(config, d_in, d_sae)
        self.register_buffer("W_dec", torch.zeros(d_sae, d_in))
        self.register_buffer("b_dec", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Fit the centres to a sample of rows; `history` says how many of `max_iter` iterations it took.

        Raises:
            InputError: there are fewer different rows than clusters, or they are not finite.
        """
        moments = finite_moments(self, rows)
        sample = sample_rows(rows, self.config.fit_rows, generator)
        scale = moments.variance**0.5 or 1.0
        scaled = ((sample.double() - moments.mean) / scale).float()
        centres, iterations = cluster(scaled, self.d_sae, self.config.max_iter, generator)
        self.b_dec.copy_(moments.mean)
        self.scale.fill_(scale)
        self.W_dec.copy_(_without_empty(scaled, centres) * scale)
        log_fit(self, sample, iterations)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense; a row that is not finite has a code that is NaN."""
        centred = (x - self.b_dec) / self.scale
        score, index = _nearest(centred, self.W_dec / self.scale)
        return torch.zeros_like(score).scatter(-1, index, 1 + 0 * centred.sum(-1, keepdim=True))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec + b_dec."""
        return codes @ self.W_dec + self.b_dec

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row: from the mean to the cluster's centre."""
        return self.W_dec


def cluster(
    sample: Float[Tensor, "n d_in"], clusters: int, max_iter: int, generator: torch.Generator
) -> tuple[Float[Tensor, "clusters d_in"], int]:
    """Centres of clusters and the iterations that finding them took.

    Raises:
        InputError: there are fewer rows than clusters.
    """
    from sklearn import cluster as sklearn  # noqa: PLC0415 - a second of imports that only a fit needs
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415 - the same

    if len(sample) < clusters:
        raise InputError(
            f"{clusters:,} clusters need at least as many rows, got {len(sample):,}; choose a smaller d_sae"
        )
    fit = sklearn.KMeans(clusters, n_init=1, max_iter=max_iter, random_state=numpy_seed(generator))
    with settling_is_logged(), threadpool_limits(1, user_api="openmp"):
        fit.fit(sample.numpy())
    return torch.from_numpy(fit.cluster_centers_).float(), int(fit.n_iter_)


def _nearest(
    x: Float[Tensor, "... d_in"], centres: Float[Tensor, "clusters d_in"]
) -> tuple[Float[Tensor, "... clusters"], Int64[Tensor, "... 1"]]:
    """x·c − ‖c‖²/2 for each centre, and the index of the nearest; of those equally near to rounding, the first."""
    half_squares = centres.square().sum(-1) / 2
    score = x @ centres.T - half_squares
    size = x.norm(dim=-1, keepdim=True) * (2 * half_squares.max()).sqrt() + half_squares.max()
    near = score >= score.amax(-1, keepdim=True) - _TIE * size
    return score, near.to(torch.uint8).argmax(-1, keepdim=True)


def _without_empty(
    sample: Float[Tensor, "n d_in"], centres: Float[Tensor, "clusters d_in"]
) -> Float[Tensor, "clusters d_in"]:
    """Centres of which each is nearest to a row: empty ones move to the rows that are farthest from theirs."""
    moved = centres.clone()
    for attempt in range(len(centres)):
        index = torch.cat([_nearest(chunk, moved)[1][:, 0] for chunk in sample.split(_CHUNK)])
        empty = (torch.bincount(index, minlength=len(moved)) == 0).nonzero()[:, 0]
        if not len(empty):
            return moved
        if attempt == 0 and (different := len(torch.unique(sample, dim=0))) < len(moved):
            raise InputError(
                f"{len(moved):,} clusters need as many different rows, of {len(sample):,} only {different:,} differ; "
                "choose a smaller d_sae"
            )
        distance = torch.cat(
            [
                (chunk - moved[nearest]).square().sum(1)
                for chunk, nearest in zip(sample.split(_CHUNK), index.split(_CHUNK), strict=True)
            ]
        )
        moved[empty] = sample[distance.topk(len(empty)).indices]
    raise InputError(f"the rows differ too little to tell {len(moved):,} clusters apart; choose a smaller d_sae")
