"""What sparse autoencoders share: four tensors, a start, the shape of the loss, and what revives dead latents."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary, DictionaryConfig, Losses, Step
from unweave.dictionaries.kernels import Entries, Groups, Kernels, Revive, Rule
from unweave.dictionaries.sparse_step import Active, Missed, gradients, reconstruction
from unweave.dictionaries.starts import start_weights
from unweave.store.rows import RowSource


@dataclass(frozen=True, kw_only=True)
class SAEConfig(DictionaryConfig):
    """Options that every sparse autoencoder has."""

    d_sae: int = 1024
    "number of latents"
    b_dec: Literal["mean", "median", "zero"] = "mean"
    "start of the decoder's bias: the mean of the rows, their geometric median, or zero"
    init: Literal["tied", "data", "kaiming", "torch"] = "tied"
    "start of the weights: unit decoder rows in random directions (tied) or those of random rows (data), the encoder \
their transpose (in relu and relu-kl scaled to reconstruct best); or both uniform, within √(6/fan_in) (kaiming: He et \
al., 2015) or 1/√fan_in (torch: as its Linear); biases start at zero"
    decoder_norm: Literal["unit", "free"] = "unit"
    "length of decoder rows: kept at 1 (gradients along them removed, rows renormalised after each step), or free"
    decoder_rate: float = 8.0
    "what the learning rate is multiplied with for decoder rows of length 1: their direction has to move, the encoder \
should not"
    reconstruction: Literal["sum", "mean"] = "sum"
    "squared error of a row: summed over its d_in entries, or averaged; always the mean over the batch"
    aux: float = 0.0
    "weight of the auxiliary loss that revives dead latents (AuxK); 0 switches it off"
    aux_k: int | None = None
    "dead latents that take part in it, a row; half of d_in by default"
    resample: float | None = None
    "start dead latents anew after each such share of the run (0.25: three times); off by default"

    def __post_init__(self) -> None:
        if not 0 < self.decoder_rate < float("inf"):
            raise InputError(f"decoder_rate must be above 0, got {self.decoder_rate}")
        if not self.aux >= 0:
            raise InputError(f"aux must be at least 0, got {self.aux}")
        if self.aux_k is not None and self.aux_k < 1:
            raise InputError(f"aux_k must be at least 1, got {self.aux_k}; aux=0 switches the auxiliary loss off")
        if self.resample is not None and not 0 < self.resample < 1:
            raise InputError(f"resample is a share of the run between 0 and 1, got {self.resample}")


@dataclass(frozen=True, eq=False)
class Forward:
    """What a batch gave on its way through: pre-activations, codes and what the reconstruction missed."""

    pre: Float[Tensor, "b d_sae"]
    codes: Float[Tensor, "b d_sae"]
    residual: Float[Tensor, "b d_in"]


class SAE(Dictionary):
    """A sparse autoencoder: codes f = activation((x − b_dec) W_enc + b_enc), reconstruction x̂ = f W_dec + b_dec.

    Shapes: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in]. W_enc lies transposed in memory, so
    that what belongs to a latent lies together.

    The loss is ‖x − x̂‖², the mean over the batch, plus the penalties of the kind, plus where `aux` is set that of AuxK
    (Gao et al., 2024, https://arxiv.org/abs/2406.04093): the `aux_k` strongest latents among the dead ones reconstruct
    what is left over, e = x − x̂, and pay aux·‖e − ê‖². `resample` is the older way: dead latents start anew at rows
    that are badly reconstructed (Bricken et al., 2023, "Towards Monosemanticity").

    A kind gives `activation`, and `penalties` where it has some. If it also gives `rule`, that is, if its codes come
    from the positive pre-activations or the largest of them, training exploits the sparsity (see
    `unweave.dictionaries.sparse_step`); then `entry_penalties` has to give the gradients of the penalties too.

    Attributes:
        scaled_start: whether the tied encoder is scaled so that the first reconstructions have the best length. Where
            half of all latents fire at the start, they add up to rows about d_sae / 2 d_in times too long.
    """

    scaled_start: ClassVar[bool] = False
    config: SAEConfig

    def __init__(self, config: SAEConfig, d_in: int) -> None:
        super().__init__(config, d_in, config.d_sae)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the starting weights."""
        if rows.d_in != self.d_in:
            raise InputError(f"the dictionary takes rows of width {self.d_in}, the data has {rows.d_in}")
        start_weights(self, rows, generator)

    @abstractmethod
    def activation(self, pre: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """Codes of pre-activations."""

    def training_activation(self, pre: Float[Tensor, "b d_sae"], step: Step) -> Float[Tensor, "b d_sae"]:
        """Codes of a training batch's pre-activations, where they differ."""
        return self.activation(pre)

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

    def four_tensors(self) -> dict[str, Tensor]:
        """W_enc, b_enc, W_dec and b_dec by name, for `saelens`."""
        tensors = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def per_row(self, squares: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """A row's squared error as the loss counts it: the sum over its entries, or their mean."""
        return squares if self.config.reconstruction == "sum" else squares / self.d_in

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """Squared error of a row (mean over the batch) plus the penalties of this kind, with autograd's graph."""
        pre = self.pre_activations(batch)
        codes = self.training_activation(pre, step)
        forward = Forward(pre, codes, batch - self.decode(codes))
        parts = {"reconstruction": self.reconstruction_loss(batch, forward, step)}
        parts.update(self.penalties(forward, step))
        parts.update(self._aux_loss(forward, step))
        return Losses.of(parts, codes, forward.residual)

    def reconstruction_loss(self, batch: Float[Tensor, "b d_in"], forward: Forward, step: Step) -> Float[Tensor, ""]:
        """The mean over the batch of a row's squared error."""
        return self.per_row(forward.residual.square().sum(-1)).mean()

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """Named terms that this kind adds to the reconstruction."""
        return {}

    def to_revive(self, step: Step) -> Revive | None:
        """The dead latents, for the auxiliary loss; None where there is none."""
        if self.config.aux == 0 or step.dead is None:
            return None
        dead = step.dead_latents()
        most = self.config.aux_k or max(1, self.d_in // 2)
        if not len(dead):
            return None
        bias = self.entry_bias()
        shift = None if bias is self.b_enc else (self.b_enc - bias).detach()[dead]
        return Revive(dead, min(most, len(dead)), shift)

    def _aux_loss(self, forward: Forward, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        revive = self.to_revive(step)
        if revive is None:
            return {}
        revived = keep_largest(forward.pre[:, revive.latents], revive.k) @ self.W_dec[revive.latents]
        left_over = forward.residual.detach()
        return {"aux": self.config.aux * self.per_row((left_over - revived).square().sum(-1)).mean()}

    def rule(self, rows: int, step: Step) -> Rule | None:
        """Which pre-activations of a training batch are its codes; None: no rule says it, and no sparse step is."""
        return None

    def entry_bias(self) -> Float[Tensor, " d_sae"]:
        """The bias under which `rule` finds the entries."""
        return self.b_enc

    def entry_codes(self, entries: Entries) -> tuple[Float[Tensor, " nnz"], Float[Tensor, " nnz"] | None]:
        """Codes of entries, and the slope of each in its value; None: 1 where the value is positive."""
        return entries.value, None

    def entry_reconstruction(
        self,
        batch: Float[Tensor, "b d_in"],
        entries: Entries,
        groups: Groups,
        codes: Float[Tensor, " nnz"],
        share: float,
        kernels: Kernels,
    ) -> Missed:
        """The same as `reconstruction_loss`, from active entries, with its gradients."""
        return reconstruction(self, batch, entries, groups, codes, share, kernels)

    def entry_penalties(self, active: Active, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The same terms as `penalties`; adds their gradients to those of codes, pre-activations and parameters."""
        return {}

    def has_sparse_step(self) -> bool:
        """Whether a rule says what is active."""
        return self.rule(1, Step(0)) is not None

    @torch.no_grad()
    def gradients(self, batch: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> Losses:
        """Write into each parameter's `grad` what `loss(batch, step).total.backward()` would."""
        return gradients(self, batch, step, kernels)

    def unit_rows(self) -> Mapping[str, float]:
        """The decoder's, unless they are free."""
        return {"W_dec": self.config.decoder_rate} if self.config.decoder_norm == "unit" else {}

    @torch.no_grad()
    def resample(self, step: Step, batch: Float[Tensor, "b d_in"]) -> Int64[Tensor, " latents"] | None:
        """Start dead latents anew, where it is time.

        Rows of the batch are drawn with probability ∝ ‖x − x̂‖⁴. A latent's decoder row takes the direction of what is
        missed there, its encoder column the same at a fifth of the mean length of those that live; its biases and
        thresholds become 0.
        """
        if self.config.resample is None or step.total is None or step.dead is None:
            return None
        every = max(1, round(self.config.resample * step.total))
        if step.index == 0 or step.index % every or step.total - step.index < every:
            return None
        if not len(dead := step.dead.nonzero().squeeze(1)):
            return None
        batch = step.whole.joined(batch)
        missed = batch - self(batch)
        weight = missed.cpu().double().square().sum(1).square()
        if not float(weight.sum()) > 0:
            return None
        generator = torch_generator(step.index, "resample")
        chosen = torch.multinomial(weight, len(dead), replacement=True, generator=generator).to(batch.device)
        direction = nn.functional.normalize(missed[chosen], dim=1)
        lengths = self.W_enc.norm(dim=0)[~step.dead]
        self.W_dec[dead] = direction
        self.W_enc[:, dead] = direction.T * (0.2 * (lengths.mean() if len(lengths) else 1.0))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1 and name != "b_dec":  # biases, thresholds and the like
                parameter[dead] = 0.0
        return dead

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long (the activation is positively homogeneous)."""
        self.b_enc.mul_(factor)
        self.b_dec.mul_(factor)


def keep_largest(pre: Float[Tensor, "... d_sae"], k: int, *, signed: bool = False) -> Float[Tensor, "... d_sae"]:
    """The k largest entries along the last axis, zero elsewhere and (unless `signed`) where they are negative."""
    value, index = pre.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter(-1, index, value if signed else torch.relu(value))
