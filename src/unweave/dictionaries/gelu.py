"""GELU sparse autoencoder with an L1 or a decorrelation penalty."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Losses, Step
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.whole import WholeBatch
from unweave.store.rows import RowSource


@register("gelu")
@dataclass(frozen=True, kw_only=True)
class GELU(PenalisedConfig):
    """GELU sparse autoencoder: f = s GELU(z / s) for z = (x − b_dec) W_enc + b_enc; loss = ‖x − x̂‖² + weight·penalty.

    GELU(z) = z Φ(z) with the normal distribution function Φ: Hendrycks and Gimpel (2016), "Gaussian error linear units
    (GELUs)", https://arxiv.org/abs/1606.08415. The penalty is Σ_j |f_j|, the mean over the batch (l1), or
    Σ_{i≠j} cov(f_i, f_j)² over the batch (decorrelation: as Cogswell et al., 2016, "Reducing overfitting in deep
    networks by decorrelating representations", https://arxiv.org/abs/1511.06068, but for their factor of a half). That
    is of covariances, not of correlations: they weigh a pair by how strong it is, and latents that hardly vary do no
    harm; kept at length 1, decoder rows bar the cheap way of making all codes small.

    GELU is never zero but at zero, so everything is active in training. In use, codes up to `threshold`·s in size count
    as off and are zero. At its default that is the depth of GELU's negative lobe: what stays is positive. What falls
    away was trained to matter, so reconstructions in use are worse than in training, the more so the larger s is.
    What training logs (explained variance, L0, dead latents) is of codes as they are used. Decorrelation makes latents
    different, not sparse: about half of them stay active. With threshold 0 codes are as trained: dense, and of both
    signs.
    """

    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("weight", (3.0, 1.0, 0.3))

    penalty: Literal["l1", "decorrelation"] = "l1"
    "what is added to the error: the sum of the codes' sizes, or of the squared covariances of each two latents"
    weight: float = 1.0
    "weight of the penalty; the default suits rows scaled to variance 1 a dimension, as training scales them"
    bend: float = 0.1
    "s, how wide the bend of GELU is; the smaller, the nearer to ReLU; 1 is GELU as it stands"
    bend_unit: Literal["rms", "one"] = "rms"
    "what the bend is measured in: the rows' root mean square about their mean, a dimension; or as it stands"
    threshold: float = 0.17
    "codes up to this size, in bends, are off in use; the default is the depth of the negative lobe; 0: none is off"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"weight must be at least 0, got {self.weight}")
        if not 0 < self.bend < float("inf"):
            raise InputError(f"bend must be above 0, got {self.bend}; for none, use relu")
        if not 0 <= self.threshold < float("inf"):
            raise InputError(f"threshold must be at least 0, got {self.threshold}")

    def build(self, d_in: int) -> "GELUSAE":
        """An untrained dictionary for rows of width d_in."""
        return GELUSAE(self, d_in)


class GELUSAE(SAE):
    """f = s GELU(z / s) for z = (x − b_dec) W_enc + b_enc, zero up to threshold·s in size; s is the buffer `bend`.

    With s in the rows' unit, rows c times as long have codes c times as large once biases and s are, as for ReLU.
    """

    scaled_start: ClassVar[bool] = True
    config: GELU
    bend: Tensor

    def __init__(self, config: GELU, d_in: int) -> None:
        super().__init__(config, d_in)
        self.register_buffer("bend", torch.ones(()))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the bend, then the starting weights."""
        moments = rows.moments()
        length = ((moments.variance or moments.mean_square_norm) / rows.d_in) ** 0.5 or 1.0
        self.bend.fill_(self.config.bend * (length if self.config.bend_unit == "rms" else 1.0))
        super().prepare(rows, generator)

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """Codes as they are used."""
        codes = self._gelu(pre)
        if not self._cuts:
            return codes
        return torch.where(codes.abs() <= self.config.threshold * self.bend, 0.0, codes)  # this way round, NaN stays

    def training_activation(self, pre: Float[Tensor, "b d_sae"], step: Step) -> Float[Tensor, "b d_sae"]:
        """All of GELU."""
        return self._gelu(pre)

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """Squared error of a row and penalty of all of GELU; error and firing are those of codes as they are used."""
        losses = super().loss(batch, step)
        if not self._cuts:
            return losses
        with torch.no_grad():
            used = self.encode(batch)
            error = (batch - self.decode(used)).square().sum() / len(batch)
        return dataclasses.replace(losses, fired=(used != 0).sum(0), error=error)

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The L1 norm of the codes, or the squared covariances between them."""
        kind = self.config.penalty
        size = forward.codes.abs().sum(-1).mean() if kind == "l1" else squared_covariances(forward.codes, step.whole)
        return {kind: size * (self.config.weight * self.config.warm_up(step))}

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        super().rescale(factor)
        self.bend.mul_(factor)

    @property
    def _cuts(self) -> bool:
        return self.config.threshold > 0

    def _gelu(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        return self.bend * gelu(pre / self.bend)


def squared_covariances(codes: Float[Tensor, "b d_sae"], whole: WholeBatch | None = None) -> Float[Tensor, ""]:
    """Σ_{i≠j} cov(f_i, f_j)² over a batch, with covariances divided by its b rows.

    The sum over all pairs is the squared Frobenius norm of Cᵀ C / b for centred codes C, and so of C Cᵀ / b: the
    smaller of the two is made. Where other processes hold rows of the batch, cov(f_i, f_j) = E f_i f_j − E f_i E f_j.
    """
    if whole is not None and not whole.alone:
        centred = codes - whole.mean(codes.mean(0)).detach()
        means = whole.mean(centred.mean(0))
        covariances = whole.mean(centred.T @ centred / len(codes)) - torch.outer(means, means)
        return covariances.square().sum() - covariances.diagonal().square().sum()
    centred = codes - codes.mean(0)
    products = centred @ centred.T if codes.shape[0] < codes.shape[1] else centred.T @ centred
    variances = centred.square().mean(0)
    return (products / len(codes)).square().sum() - variances.square().sum()
