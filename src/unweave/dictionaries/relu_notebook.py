"""The L1 sparse autoencoder of a published notebook, with what is odd about it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.registry import register
from unweave.dictionaries.exchange import Exchange
from unweave.dictionaries.relu import ReLU, ReLUSAE
from unweave.store.rows import RowSource

_TINY = torch.finfo(torch.float32).tiny


@register("relu-notebook")
@dataclass(frozen=True, kw_only=True)
class NotebookReLU(ReLU):
    """ReLU sparse autoencoder made of two `Linear` layers, as a published notebook has it: to meet its numbers.

    It means to be the one of Bricken et al. (2023) and differs in three ways. Encoder and decoder keep the layers' own
    biases beside b_enc and b_dec. The decoder is normalised along the wrong axis, its columns instead of its rows, and
    only at the start: gradients are projected along that axis, and the renormalised copy is thrown away, so the rows'
    lengths are free and growing them bypasses the penalty. Use `relu` for anything else.
    """

    def build(self, d_in: int) -> "NotebookReLUSAE":
        """An untrained dictionary for rows of width d_in."""
        return NotebookReLUSAE(self, d_in)


class NotebookReLUSAE(ReLUSAE):
    """f = relu((x − b_dec) W_enc + b_enc + encoder_bias), x̂ = f W_dec + b_dec + decoder_bias."""

    config: NotebookReLU

    def __init__(self, config: NotebookReLU, d_in: int) -> None:
        super().__init__(config, d_in)
        self.encoder_bias = nn.Parameter(torch.zeros(self.d_sae))
        self.decoder_bias = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the starting weights; the layers' own biases start as `Linear` starts them."""
        super().prepare(rows, generator)
        self.W_dec.div_(self.W_dec.norm(dim=0, keepdim=True).clamp_min(_TINY))
        for bias, fan_in in ((self.encoder_bias, self.d_in), (self.decoder_bias, self.d_sae)):
            bias.copy_((2 * torch.rand(bias.shape, generator=generator) - 1) * fan_in**-0.5)

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """(x − b_dec) W_enc and both biases."""
        return super().pre_activations(x) + self.encoder_bias

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for: f W_dec and both biases."""
        return super().decode(codes) + self.decoder_bias

    @torch.no_grad()
    def saelens(self) -> Exchange:
        """SAELens' standard autoencoder, the layers' own biases folded in: it subtracts what it adds at the end."""
        bias = self.b_enc.double() + self.encoder_bias + self.decoder_bias.double() @ self.W_enc.double()
        folded = {"b_enc": bias.to(self.b_enc.dtype), "b_dec": self.b_dec + self.decoder_bias}
        return Exchange.linear({**self.four_tensors(), **folded})

    def has_sparse_step(self) -> bool:
        """No: it is here for its numbers, not for its speed."""
        return False

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Remove from each decoder column's gradient what lies along the column."""
        if self.W_dec.grad is not None:
            along = self.W_dec / self.W_dec.norm(dim=0, keepdim=True).clamp_min(_TINY)
            self.W_dec.grad.sub_((self.W_dec.grad * along).sum(0, keepdim=True) * along)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long."""
        super().rescale(factor)
        self.encoder_bias.mul_(factor)
        self.decoder_bias.mul_(factor)
