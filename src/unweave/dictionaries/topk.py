"""TopK sparse autoencoder, with the auxiliary loss that revives dead latents."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.sae import SAE, Forward, SAEConfig


@register("topk")
@dataclass(frozen=True, kw_only=True)
class TopK(SAEConfig):
    """TopK sparse autoencoder: f keeps the k largest positive pre-activations of each row; loss = ‖x − x̂‖² + aux.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093. AuxK: the
    `aux_k` strongest latents among the dead ones reconstruct what is left over, e = x − x̂, and pay `aux`·‖e − ê‖².
    """

    k: int = 32
    "latents that may be active in a row"
    aux: float = 1.0
    "weight of the auxiliary loss on dead latents; 0 switches it off"
    aux_k: int | None = None
    "dead latents that take part in it, a row; half of d_in by default"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d_sae:
            raise InputError(f"k must lie between 1 and d_sae ({self.d_sae}), got {self.k}")
        if not self.aux >= 0:
            raise InputError(f"aux must be at least 0, got {self.aux}")
        if self.aux_k is not None and self.aux_k < 1:
            raise InputError(f"aux_k must be at least 1, got {self.aux_k}; aux=0 switches the auxiliary loss off")

    def build(self, d_in: int) -> "TopKSAE":
        """An untrained dictionary for rows of width d_in."""
        return TopKSAE(self, d_in)


def keep_largest(pre: Float[Tensor, "... d_sae"], k: int) -> Float[Tensor, "... d_sae"]:
    """The k largest positive entries along the last axis, zero elsewhere."""
    value, index = pre.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter(-1, index, torch.relu(value))


class TopKSAE(SAE):
    """f = the k largest positive entries of (x − b_dec) W_enc + b_enc."""

    config: TopK

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The k largest positive entries, the rest zero."""
        return keep_largest(pre, self.config.k)

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The auxiliary loss, while there are dead latents."""
        if self.config.aux == 0 or step.dead is None:
            return {}
        dead = step.dead.nonzero().squeeze(1)
        if not len(dead):
            return {}
        k = min(self.config.aux_k or max(1, self.d_in // 2), len(dead))
        revived = keep_largest(forward.pre[:, dead], k) @ self.W_dec[dead]
        left_over = forward.residual.detach()
        return {"aux": self.config.aux * (left_over - revived).square().sum(-1).mean()}
