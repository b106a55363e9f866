"""TopK sparse autoencoder."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Rule
from unweave.dictionaries.sae import SAE, SAEConfig, keep_largest


@dataclass(frozen=True, kw_only=True)
class LargestConfig(SAEConfig):
    """Options of the kinds that keep the largest pre-activations."""

    k: int = 32
    "latents that may be active in a row"
    k_start: float = 1.0
    "k at the first step, in multiples of k; it falls linearly"
    k_anneal: float = 0.2
    "share of the run over which it falls, where k_start is not 1"
    aux: float = 1.0
    "weight of the auxiliary loss that revives dead latents (AuxK); 0 switches it off"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.d_sae:
            raise InputError(f"k must lie between 1 and d_sae ({self.d_sae}), got {self.k}")
        if not 1 <= self.k_start < float("inf"):
            raise InputError(f"k_start must be at least 1, got {self.k_start}")
        if not 0 < self.k_anneal <= 1:
            raise InputError(f"k_anneal is a share of the run above 0, up to 1, got {self.k_anneal}")

    def k_at(self, step: Step) -> int:
        """Active latents a row at one step of training."""
        left = max(0.0, 1 - step.done() / self.k_anneal)
        return min(self.d_sae, round(self.k * (1 + (self.k_start - 1) * left)))


@register("topk")
@dataclass(frozen=True, kw_only=True)
class TopK(LargestConfig):
    """TopK sparse autoencoder: f keeps the k largest positive pre-activations of each row; loss = ‖x − x̂‖² + aux.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093.
    """

    signed: bool = False
    "keep the k largest pre-activations even where they are negative, as some libraries do; by default those are zero"

    def build(self, d_in: int) -> "TopKSAE":
        """An untrained dictionary for rows of width d_in."""
        return TopKSAE(self, d_in)


class TopKSAE(SAE):
    """f = the k largest entries of (x − b_dec) W_enc + b_enc, the positive ones among them unless it is `signed`."""

    config: TopK

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The k largest entries, the rest zero."""
        return keep_largest(pre, self.config.k, signed=self.config.signed)

    def training_activation(self, pre: Float[Tensor, "b d_sae"], step: Step) -> Float[Tensor, "b d_sae"]:
        """The same, with as many as this step allows."""
        return keep_largest(pre, self.config.k_at(step), signed=self.config.signed)

    def saelens(self) -> Exchange | None:
        """SAELens' topk, whose codes are not negative."""
        return None if self.config.signed else Exchange.linear(self.four_tensors(), k=self.config.k)

    def rule(self, rows: int, step: Step) -> Rule | None:
        """The largest of each row; negative ones are found by no rule."""
        return None if self.config.signed else Rule(per_row=self.config.k_at(step))
