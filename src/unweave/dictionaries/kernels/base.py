"""What the sparse step is made of: five operations, whose cost follows the active entries.

One product of the batch with the encoder is dense; everything after it works on the entries that a rule keeps. Plain
torch (`reference`) is the specification and runs everywhere; `compiled` and `fused` do the same on a CPU and on a GPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

Precision = Literal["float32", "tfloat32", "bfloat16"]


@dataclass(frozen=True)
class Rule:
    """Which pre-activations stay active: the positive ones, all of them or the largest.

    Attributes:
        per_row: how many of each row, at most.
        in_batch: how many of the whole batch, at most.
        guess: a value that the smallest of `in_batch` will likely exceed; it decides the speed, never the result.
    """

    per_row: int | None = None
    in_batch: int | None = None
    guess: float = 0.0


@dataclass(frozen=True, eq=False)
class Entries:
    """Pre-activations that a rule kept, row by row: row b has the entries offsets[b] to offsets[b + 1].

    The latents of a row come in no particular order. Where `padded`, entries of value 0 may be among them: they stand
    for nothing.
    """

    offsets: Int32[Tensor, " b_plus_1"]
    latent: Int32[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]
    padded: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class Revive:
    """Latents to revive: the `k` largest positive pre-activations of a row among theirs.

    Attributes:
        latents: which.
        k: how many of them a row may use.
        shift: what their pre-activations get on top, where the bias that entries are found under is not theirs.
    """

    latents: Int64[Tensor, " dead"]
    k: int
    shift: Float[Tensor, " dead"] | None = None

    def bias_of(self, bias: Float[Tensor, " d_sae"]) -> Float[Tensor, " dead"]:
        """Their biases, of those that entries are found under."""
        chosen = bias[self.latents]
        return chosen if self.shift is None else chosen + self.shift

    def of(self, pre: Float[Tensor, "b d_sae"]) -> Float[Tensor, "b dead"]:
        """Their pre-activations."""
        chosen = pre[:, self.latents]
        return chosen if self.shift is None else chosen + self.shift


@dataclass(frozen=True, eq=False)
class Groups:
    """Entries sorted by latent: latent j has the places starts[j] to starts[j + 1] of `order` and `row`.

    Attributes:
        starts: [d_sae + 1].
        order: number of each entry in its `Entries`.
        row: row of each entry.
    """

    starts: Int[Tensor, " d_sae_plus_1"]
    order: Int[Tensor, " nnz"]
    row: Int[Tensor, " nnz"]


@dataclass(frozen=True, eq=False)
class Moving:
    """A parameter on its way, as contiguous rows.

    Attributes:
        weight: its values.
        gradient: of the loss; it may be written to.
        first: Adam's mean of gradients.
        second: Adam's mean of squared gradients.
        rate: learning rate.
        unit: whether rows of the weight have length 1: the gradient along them is removed first, and they are brought
            back to length 1 after.
    """

    weight: Float[Tensor, "n m"]
    gradient: Float[Tensor, "n m"]
    first: Float[Tensor, "n m"]
    second: Float[Tensor, "n m"]
    rate: float
    unit: bool


class Kernels(ABC):
    """The operations. Use as a context: threads and buffers live as long as it.

    Attributes:
        name: what a run says it took.
        precision: of the encoder's product alone; sums of it, and all else, are float32. A CPU has no tfloat32, and
            computes in float32.
    """

    name: ClassVar[str]

    def __init__(self, precision: Precision = "float32") -> None:
        self.precision = precision

    def __enter__(self) -> "Kernels":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def encode(
        self,
        x: Float[Tensor, "b d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        rule: Rule,
        revive: Revive | None = None,
    ) -> tuple[Entries, Entries | None]:
        """What `rule` keeps of x W + bias, and what of it goes to latents to revive."""

    @abstractmethod
    def reconstruct(
        self,
        x: Float[Tensor, "b d_in"],
        entries: Entries,
        codes: Float[Tensor, " nnz"],
        decoder: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_in"],
    ) -> tuple[Float[Tensor, "b d_in"], Float[Tensor, " nnz"], Float[Tensor, ""]]:
        """The residual r = x − bias − Σ f_e W_e; ⟨r, W_e⟩ of each entry; and Σ‖r‖² over the batch."""

    @abstractmethod
    def dots(
        self, rows: Float[Tensor, "b d_in"], entries: Entries, decoder: Float[Tensor, "d_sae d_in"]
    ) -> Float[Tensor, " nnz"]:
        """⟨rows_b, W_e⟩ of each entry."""

    @abstractmethod
    def group(self, entries: Entries, d_sae: int) -> Groups:
        """Entries sorted by latent."""

    @abstractmethod
    def accumulate(
        self,
        groups: Groups,
        weight: Float[Tensor, " nnz"],
        rows: Float[Tensor, "b d_in"],
        *,
        out: Float[Tensor, "d_sae d_in"],
        scale: float = 1.0,
        add: bool = False,
    ) -> None:
        """out_j = scale · Σ weight_e rows_b over the entries of each latent; added to what is there where `add`."""

    @abstractmethod
    def adam(self, moving: Sequence[Moving], *, step: int, betas: tuple[float, float]) -> None:
        """One step of Adam (Kingma & Ba, 2015; ε 1e-8), the `step`-th from 1 on."""

    def sums(self, groups: Groups, weight: Float[Tensor, " nnz"]) -> Float[Tensor, " d_sae"]:
        """Σ weight_e over the entries of each latent."""
        total = torch.zeros(len(weight) + 1, dtype=torch.float64, device=weight.device)
        torch.cumsum(weight[groups.order].double(), 0, out=total[1:])
        return (total[groups.starts[1:]] - total[groups.starts[:-1]]).to(weight.dtype)

    def fired(self, entries: Entries, groups: Groups, codes: Float[Tensor, " nnz"]) -> Int[Tensor, " d_sae"]:
        """On how many rows each latent's code is not zero."""
        return self.sums(groups, (codes != 0).float()).long()


EPSILON = 1e-8
"""Adam's ε."""
