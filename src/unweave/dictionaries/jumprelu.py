"""JumpReLU sparse autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.registry import register
from unweave.dictionaries.base import Step, best_gain
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.kernels import Entries, Rule
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.sparse_step import Active, gradient
from unweave.store.rows import RowSource

_START_ROWS = 4096
_SINK = 0.01


@register("jumprelu")
@dataclass(frozen=True, kw_only=True)
class JumpReLU(PenalisedConfig):
    """JumpReLU sparse autoencoder: f = z where z > θ_j, else 0; loss = ‖x − x̂‖² + l0·(L0/target − 1)².

    Rajamanoharan et al. (2024), "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders",
    https://arxiv.org/abs/2407.14435. Each latent learns its threshold θ_j. The step has no gradient, so that of θ is
    estimated from the pre-activations z within `bandwidth` ε of it: ∂f/∂θ = −θ/ε and ∂[z > θ]/∂θ = −1/ε for
    |z − θ| < ε/2. Without a target the penalty is the paper's own, l0·L0. All thresholds start where the first rows
    have the target's L0 (or, without one, an L0 of 32).
    """

    aux: float = 1.0
    "weight of the auxiliary loss that revives dead latents (AuxK); 0 switches it off"
    sparsity: ClassVar[tuple[str, tuple[float, ...]]] = ("target", (1.5, 3.0, 6.0))
    l0: float = 10.0
    "weight of the penalty; the default suits rows scaled to variance 1 a dimension, as training scales them"
    target: float | None = 32.0
    "mean number of active latents a row that the penalty aims at; none: the fewer the better"
    bandwidth: float = 0.2
    "width of the window around a threshold in which pre-activations move it"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l0 >= 0:
            raise InputError(f"l0 must be at least 0, got {self.l0}")
        if self.target is not None and not 0 < self.target <= self.d_sae:
            raise InputError(f"target must lie above 0 and not above d_sae ({self.d_sae}), got {self.target}")
        if not 0 < self.bandwidth < float("inf"):
            raise InputError(f"bandwidth must be above 0, got {self.bandwidth}")

    @classmethod
    def example(cls) -> "JumpReLU":
        """Small, and as sparse as the conformance suite's rows."""
        return cls(d_sae=32, target=3.0)

    def build(self, d_in: int) -> "JumpReLUSAE":
        """An untrained dictionary for rows of width d_in."""
        return JumpReLUSAE(self, d_in)


class JumpReLUSAE(SAE):
    """f_j = z_j where z_j > threshold_j, for z = (x − b_dec) W_enc + b_enc.

    Attributes:
        straight_through: parameters whose gradient is estimated, not the loss's own.
    """

    straight_through: ClassVar[frozenset[str]] = frozenset({"threshold"})
    config: JumpReLU

    def __init__(self, config: JumpReLU, d_in: int) -> None:
        super().__init__(config, d_in)
        self.threshold = nn.Parameter(torch.zeros(self.d_sae))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the starting weights; thresholds from the first rows."""
        super().prepare(rows, generator)
        first = next(rows.blocks(min(_START_ROWS, max(1, (1 << 25) // self.d_sae))))
        pre = self.pre_activations(first.to(self.device)).flatten()
        most = max(1, min(round(len(first) * (self.config.target or min(32.0, self.d_sae))), pre.numel()))
        self.threshold.fill_(float(pre.topk(most, sorted=True).values[-1].clamp_min(0.0)))
        # Too long reconstructions would pull pre-activations below thresholds that only active latents can move.
        gain = best_gain(self, rows, self.b_dec, most=_START_ROWS)
        self.W_enc.mul_(gain)
        self.threshold.mul_(gain)

    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """Pre-activations over their threshold."""
        made: Tensor = _Jump.apply(pre, self.threshold, self.config.bandwidth)  # type: ignore[no-untyped-call]
        return made

    def saelens(self) -> Exchange | None:
        """SAELens' jumprelu; it has no negative codes, so nothing stands for a threshold below zero."""
        if bool((self.threshold < 0).any()):
            return None
        tensors = {**self.four_tensors(), "threshold": self.threshold.detach()}
        return Exchange(architecture="jumprelu", tensors=tensors)

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """What the mean number of active latents costs."""
        fired: Tensor = _Fired.apply(  # type: ignore[no-untyped-call]
            forward.pre, self.threshold, self.config.bandwidth
        )
        cost, _ = self._cost(step.whole.mean(fired.sum() / len(forward.pre)), step)
        return {"l0_penalty": cost}

    def rule(self, rows: int, step: Step) -> Rule:
        """All that lie over the lower edge of their threshold's window."""
        return Rule()

    def entry_bias(self) -> Float[Tensor, " d_sae"]:
        """The bias, less the window's lower edge."""
        return self.b_enc - self.threshold + self.config.bandwidth / 2

    def entry_codes(self, entries: Entries) -> tuple[Float[Tensor, " nnz"], Float[Tensor, " nnz"] | None]:
        """Pre-activations of the entries over their threshold, 0 for those in the window's lower half."""
        half = self.config.bandwidth / 2
        jumped = (entries.value > half).float()
        return (entries.value - half + self.threshold[entries.latent.long()]) * jumped, jumped

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """What the mean number of active latents costs, and the gradient of the thresholds."""
        value, width = active.entries.value, self.config.bandwidth
        fired = step.whole.over_latents(step.whole.mean((value > width / 2).sum() / active.rows))
        cost, slope = self._cost(fired, step)
        window = ((value > 0) & (value < width)).float()
        theta = self.threshold[active.latent]
        estimate = (theta * active.d_codes + slope / active.rows) * window / -width
        gradient(self.threshold).copy_(active.sums(estimate))
        return {"l0_penalty": cost}

    def _cost(self, fired: Float[Tensor, ""], step: Step) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | float]:
        """The penalty of an L0, and its slope."""
        weight, target = self.config.l0 * self.config.warm_up(step), self.config.target
        if target is None:
            return fired * weight, weight
        over = fired / target - 1
        return over.square() * weight, over.detach() * (2 * weight / target)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Keep thresholds from falling below zero, and lower those of dead latents, which nothing else moves."""
        self.threshold.clamp_min_(0.0)
        if step.dead is not None:
            self.threshold.mul_(1 - _SINK * step.dead)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        super().rescale(factor)
        self.threshold.mul_(factor)


def _window(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    return ((pre - threshold).abs() < width / 2).to(pre.dtype)


class _Jump(torch.autograd.Function):
    """z where z > θ, else 0; θ's gradient estimated from the window around it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width  # type: ignore[attr-defined]
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        width: float = ctx.width  # type: ignore[attr-defined]
        (g,) = grads
        d_threshold = (-threshold / width) * (g * _window(pre, threshold, width))
        return g * (pre > threshold), d_threshold.flatten(0, -2).sum(0), None


class _Fired(torch.autograd.Function):
    """1 where z > θ, else 0; only θ gets a gradient, estimated from the window around it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width  # type: ignore[attr-defined]
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        width: float = ctx.width  # type: ignore[attr-defined]
        (g,) = grads
        return None, (-1 / width * (g * _window(pre, threshold, width))).flatten(0, -2).sum(0), None
