import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.topk import TopK


@pytest.fixture(scope="session")
def rows() -> Tensor:
    """300 rows of width 8 about a mean of 4, each a sum of a few of 12 directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=1)
    active = torch.rand(300, 12, generator=generator) < 0.2
    return (active * (1 + torch.rand(300, 12, generator=generator))) @ directions * 5 + 4


@pytest.fixture(params=["topk", "relu", "relu-kl"])
def config(request: pytest.FixtureRequest) -> DictionaryConfig:
    """One small configuration of each kind that is trained by gradient."""
    return {"topk": TopK(d_sae=16, k=3), "relu": ReLU(d_sae=16), "relu-kl": ReLUKL(d_sae=16)}[request.param]
