"""Small models and dictionaries with known weights."""

import pytest
import torch
from torch import nn

from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.relu import ReLU


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionary(d_in: int, d_sae: int, *, seed: int = 0, hook_name: str = "") -> Dictionary:
    """A ReLU dictionary with random weights; about half of its latents are active in a row."""
    made = ReLU(d_sae=d_sae).build(d_in)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=100 * seed + number) / d_in**0.5)
    made.hook_name = hook_name
    return made.to_inference()


@pytest.fixture
def sae() -> Dictionary:
    """For rows of width 6, ten latents, trained (so it says) at `hidden`."""
    return dictionary(6, 10, hook_name="hidden")


class Net(nn.Module):
    """4 inputs, 6 hidden units (`hidden`, through a ReLU), 3 classes (`head`)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.hidden = nn.ReLU()
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(drawn(*parameter.shape, seed=1000 + 10 * seed + number))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.hidden(self.first(x)))


@pytest.fixture
def model() -> nn.Module:
    """The small net, with linear answers to what is done to `hidden`."""
    return Net()


@pytest.fixture
def x() -> torch.Tensor:
    """Forty inputs."""
    return drawn(40, 4, seed=7)


@pytest.fixture
def labels() -> torch.Tensor:
    """A class for each of them."""
    return torch.arange(40) % 3


@pytest.fixture
def make_sae():
    """A function: a dictionary with random weights, `make_sae(d_in, d_sae)`."""
    return dictionary
