"""What sparse autoencoders share: four tensors, a start, unit-norm decoder rows, and the shape of the loss."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig, Losses, Step, best_gain
from unweave.store.rows import RowSource

_START_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class SAEConfig(DictionaryConfig):
    """Options that every sparse autoencoder has."""

    d_sae: int = 1024
    "number of latents"
    b_dec: Literal["mean", "zero"] = "mean"
    "start of the decoder's bias: the mean of the rows, or zero"
    init: Literal["tied", "kaiming", "torch"] = "tied"
    "start of the weights: random unit decoder rows with the encoder their transpose (in relu and relu-kl scaled to \
reconstruct best); or both uniform, within √(6/fan_in) (kaiming: He et al., 2015) or 1/√fan_in (torch: as its Linear); \
biases start at zero"
    decoder_norm: Literal["unit", "free"] = "unit"
    "length of decoder rows: kept at 1 (gradients along them removed, rows renormalised after each step), or free"
    reconstruction: Literal["sum", "mean"] = "sum"
    "squared error of a row: summed over its d_in entries, or averaged; always the mean over the batch"


@dataclass(frozen=True, eq=False)
class Forward:
    """What a batch gave on its way through: pre-activations, codes and what the reconstruction missed."""

    pre: Float[Tensor, "b d_sae"]
    codes: Float[Tensor, "b d_sae"]
    residual: Float[Tensor, "b d_in"]


class SAE(Dictionary):
    """A sparse autoencoder: codes f = activation((x − b_dec) W_enc + b_enc), reconstruction x̂ = f W_dec + b_dec.

    Shapes: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in].

    Attributes:
        scaled_start: whether the tied encoder is scaled so that the first reconstructions have the best length. Where
            half of all latents fire at the start, they add up to rows about d_sae / 2 d_in times too long.
    """

    scaled_start: ClassVar[bool] = False
    config: SAEConfig

    def __init__(self, config: SAEConfig, d_in: int) -> None:
        super().__init__(config, d_in, config.d_sae)
        self.W_enc = nn.Parameter(torch.zeros(d_in, self.d_sae))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the starting weights."""
        if rows.d_in != self.d_in:
            raise InputError(f"the dictionary takes rows of width {self.d_in}, the data has {rows.d_in}")
        if self.config.init == "tied":
            self.W_dec.copy_(nn.functional.normalize(torch.randn(self.W_dec.shape, generator=generator), dim=1))
            self.W_enc.copy_(self.W_dec.T)
        else:
            for weight in (self.W_enc, self.W_dec):
                bound = ((6 if self.config.init == "kaiming" else 1) / weight.shape[0]) ** 0.5
                weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
            self.after_step()
        if self.config.b_dec == "mean":
            self.b_dec.copy_(rows.moments().mean)
        if self.config.init == "tied" and self.scaled_start:
            self.W_enc.mul_(best_gain(self, rows, self.b_dec, most=_START_ROWS))

    @abstractmethod
    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """Codes of pre-activations."""

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """(x − b_dec) W_enc + b_enc."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""
        return self.activation(self.pre_activations(x))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec + b_dec."""
        return codes @ self.W_dec + self.b_dec

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row: the rows of W_dec."""
        return self.W_dec.detach()

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """Squared error of a row (mean over the batch) plus the penalties of this kind."""
        pre = self.pre_activations(batch)
        codes = self.activation(pre)
        residual = batch - self.decode(codes)
        squares = residual.square().sum(-1).mean()
        parts = {"reconstruction": squares if self.config.reconstruction == "sum" else squares / self.d_in}
        parts.update(self.penalties(Forward(pre, codes, residual), step))
        return Losses(parts, codes.detach(), residual.detach())

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """Named terms that this kind adds to the reconstruction."""
        return {}

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Remove from each decoder row's gradient what would only change its length."""
        if self.config.decoder_norm == "unit" and self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(1, keepdim=True)
            self.W_dec.grad.sub_(along * self.W_dec)

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring decoder rows back to length 1."""
        if self.config.decoder_norm == "unit":
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long (the activation is positively homogeneous)."""
        self.b_enc.mul_(factor)
        self.b_dec.mul_(factor)
