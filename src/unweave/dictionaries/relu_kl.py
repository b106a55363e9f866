"""ReLU sparse autoencoder with a Bernoulli-KL penalty on mean activity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Rule
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.sparse_step import Active


@register("relu-kl")
@dataclass(frozen=True, kw_only=True)
class ReLUKL(PenalisedConfig):
    """ReLU sparse autoencoder with a KL penalty: loss = ‖x − x̂‖² + kl·Σ_j KL(ρ ‖ ρ̂_j).

    KL(ρ ‖ ρ̂) = ρ log(ρ/ρ̂) + (1−ρ) log((1−ρ)/(1−ρ̂)) of two Bernoulli variables; ρ̂_j is the batch mean of latent j's
    activity. Ng (2011), "Sparse autoencoder". ρ is the target *mean activity*: small is sparse, 0.999 is dense;
    it bounds how much latents fire on average, not on how many rows.

    A ReLU latent is unbounded while a Bernoulli mean is not, so activity is f/(1+f) by default, which lies in [0, 1)
    and has a gradient wherever the latent fires. `squash=False` takes f itself and clamps its mean, as some published
    notebooks do: there a latent whose mean exceeds 1 gets no gradient from the penalty.
    """

    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("kl", (10.0, 3.0, 1.0))
    rho: float = 0.01
    "target mean activity of a latent, between 0 and 1; small is sparse"
    kl: float = 3.0
    "weight of the penalty; the default suits rows scaled to variance 1 a dimension, as training scales them"
    squash: bool = True
    "measure activity as f/(1+f); off: f itself, its mean clamped to [epsilon, 1 - epsilon]"
    epsilon: float = 1e-7
    "distance that mean activity keeps from 0 and 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < 1:
            raise InputError(f"rho is a mean activity between 0 and 1, got {self.rho}")
        if not self.kl >= 0:
            raise InputError(f"kl must be at least 0, got {self.kl}")
        if not 1e-7 <= self.epsilon < 0.5:  # below, 1 - epsilon is 1 in float32 and the penalty infinite
            raise InputError(f"epsilon must lie between 1e-7 and 0.5, got {self.epsilon}")

    def build(self, d_in: int) -> "ReLUKLSAE":
        """An untrained dictionary for rows of width d_in."""
        return ReLUKLSAE(self, d_in)


class ReLUKLSAE(SAE):
    """f = relu((x − b_dec) W_enc + b_enc), penalised by Σ_j KL(ρ ‖ mean activity of j)."""

    scaled_start: ClassVar[bool] = True
    config: ReLUKL

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The positive part."""
        return torch.relu(pre)

    def saelens(self) -> Exchange:
        """SAELens' standard autoencoder."""
        return Exchange.linear(self.four_tensors())

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The divergence between target and mean activity, summed over latents."""
        activity = forward.codes / (1 + forward.codes) if self.config.squash else forward.codes
        return {
            "kl": self._divergence(step.whole.mean(activity.mean(0))) * (self.config.kl * self.config.warm_up(step))
        }

    def rule(self, rows: int, step: Step) -> Rule:
        """All that are positive."""
        return Rule()

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The same divergence: its slope in the mean activity is shared out to the entries."""
        value = active.codes
        weight = self.config.kl * self.config.warm_up(step)
        activity = value / (1 + value) if self.config.squash else value
        with torch.enable_grad():
            mean = step.whole.mean(active.sums(activity) / active.rows).requires_grad_()
            divergence = self._divergence(mean)
            (slope,) = torch.autograd.grad(divergence, mean)
        inner = (1 + value).pow(-2) if self.config.squash else torch.ones_like(value)
        active.d_codes.addcmul_(slope[active.latent], inner, value=weight / active.rows)
        return {"kl": step.whole.over_latents(divergence.detach() * weight)}

    def _divergence(self, activity: Float[Tensor, " d_sae"]) -> Float[Tensor, ""]:
        rho, epsilon = self.config.rho, self.config.epsilon
        mean = activity.clamp(epsilon, 1 - epsilon)
        return (rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))).sum()
