"""What every model configuration offers, and the layers that the small ones are made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.registry import Component, Registry


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Component, ABC):
    """Base of model configurations."""

    registry: ClassVar[Registry[type[Component]]] = Registry("model", "unweave.models")
    reads_text: ClassVar[bool] = False
    """Whether its networks may be ones of texts; those have no shape of images, and are built with (0, 0, 0)."""

    def framing(self) -> Framing | None:
        """How image files are best read for it, where its own preprocessing asks for a size."""
        return None

    def located(self) -> "ModelConfig":
        """The same configuration with the places of its files in full, so that they are found from everywhere."""
        return self

    def untrained(self) -> "ModelConfig | None":
        """The configuration of the same network with a random start, where it has another one; None where it has not.

        A configuration whose networks are untrained anyhow, as those are that Unweave trains, gives itself.
        """
        return self

    @abstractmethod
    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """An untrained network.

        Args:
            shape: channels, height and width of the images.
            classes: number of classes it tells apart.
            generator: source of its starting weights.
        """


class Normalise(nn.Module):
    """(x − mean) / std with one number each: part of the model, so that every image it is shown lies in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        if std == 0:
            raise InputError("std must not be 0: pixels are divided by it")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalised values, same shape."""
        return (x - self.mean) / self.std


@torch.no_grad()
def linear(
    d_in: int, d_out: int, generator: torch.Generator, *, init: Literal["torch", "xavier-tanh"] = "torch"
) -> nn.Linear:
    """A linear layer whose start comes from `generator`.

    Args:
        d_in: inputs.
        d_out: outputs.
        generator: source of the start.
        init: `torch` is its default, uniform within 1/√d_in for weight and bias; `xavier-tanh` is Glorot's uniform
            start with gain 5/3 and zero bias (Glorot and Bengio, 2010).

    Raises:
        InputError: there is no input or no unit.
    """
    if d_in < 1 or d_out < 1:
        raise InputError(f"a layer needs at least one input and one unit, got {d_in} and {d_out}")
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, d_in, d_out)
    if init == "torch":
        nn.init.uniform_(layer.weight, -(d_in**-0.5), d_in**-0.5, generator=generator)
        nn.init.uniform_(layer.bias, -(d_in**-0.5), d_in**-0.5, generator=generator)
    else:
        nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"), generator=generator)
        nn.init.zeros_(layer.bias)
    return layer
