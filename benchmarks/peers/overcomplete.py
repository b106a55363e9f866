"""Overcomplete, driven through its `train_sae`: optimiser and loss as its README has them.

The loss is the mean squared error; for ReLU and JumpReLU its own `mse_l1`, the weight such that a code costs in a row
what Unweave's default makes it cost. `train_sae` normalises the dictionary in every forward pass.
"""

import copy
import importlib.machinery
import importlib.util
import sys
import types
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.loops import SteppedLoop, forever
from benchmarks.peers.protocol import KINDS, Coder, Kind, Run, Task, sparse_start


@contextmanager
def _torchvision_or_a_stand_in():  # noqa: ANN202
    """Its models of vision import torchvision's transforms, and the package imports its models; no SAE needs them."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    package.transforms = transforms
    for module in (package, transforms):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    sys.modules.update({module.__name__: module for module in (package, transforms)})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.transforms"]


with _torchvision_or_a_stand_in():
    from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE, train_sae
    from overcomplete.sae.losses import mse_l1

NAME = "Overcomplete"
DISTRIBUTION = "overcomplete"
HAS_AMP = False
RECIPES: dict[Kind, tuple[str, ...]] = dict.fromkeys(KINDS, ("default", "tuned"))
_DEFAULT_RATE = 5e-4


def _model(task: Task) -> SAE:
    size = {"nb_concepts": task.d_sae, "device": task.device}
    if task.kind == "topk":
        return TopKSAE(task.d_in, top_k=task.k, **size)
    if task.kind == "batch-topk":
        return BatchTopKSAE(task.d_in, top_k=task.k * task.batch, **size)
    return (JumpSAE if task.kind == "jumprelu" else SAE)(task.d_in, **size)


def _mse(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    return (x - x_hat).square().mean()


class _Run(Run):
    """One dictionary in training."""

    def __init__(self, task: Task) -> None:
        torch.manual_seed(task.seed)
        self._model = _model(task)
        sparse_start(self._model.encoder.final_block[0].bias.data, lambda x: self._model.encode(x)[1], task)
        penalised = partial(mse_l1, penalty=1 / (task.d_in * task.batch))
        criterion = penalised if task.kind in ("relu", "jumprelu") else _mse
        rate = 3e-3 if task.recipe == "tuned" else _DEFAULT_RATE
        optimizer = torch.optim.Adam(self._model.parameters(), lr=rate)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 5 * (1 - step / task.steps)))
        scheduler = decay if task.recipe == "tuned" else None
        self._loop = SteppedLoop(
            lambda next_batch: train_sae(
                self._model, forever(next_batch), criterion, optimizer, scheduler, nb_epochs=1, device=task.device
            )
        )

    def step(self, x: Tensor) -> None:
        self._loop.step(x)

    def around(self) -> AbstractContextManager[object]:
        return self._loop.around()

    def close(self) -> None:
        self._loop.close()

    @torch.no_grad()
    def coder(self) -> Coder:
        """In evaluation mode: BatchTopK encodes with its running threshold."""
        trained = copy.deepcopy(self._model).eval()
        return Coder(lambda x: trained.encode(x)[1], trained.decode, trained.get_dictionary())


def build(task: Task) -> Run:
    """A run of the task."""
    return _Run(task)
