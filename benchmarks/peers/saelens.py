"""SAELens, driven through `SAETrainer.step`.

Its trainer does not normalise the decoder: TopK kinds weigh codes with the decoder's norms instead. `fit` counts the
steps itself, so that is done here after each.
"""

import tempfile
from collections.abc import Iterator

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.peers.protocol import KINDS, Coder, Kind, Run, Task, sparse_start

NAME = "SAELens"
DISTRIBUTION = "sae-lens"
HAS_AMP = True
RECIPES: dict[Kind, tuple[str, ...]] = dict.fromkeys(KINDS, ("default", "tuned"))
_CLASSES = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batch-topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "relu": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
}
_DEFAULT_RATE = 3e-4


def _no_batches() -> Iterator[Tensor]:
    yield from ()


class _Run(Run):
    """One dictionary in training."""

    def __init__(self, task: Task) -> None:
        make, configure = _CLASSES[task.kind]
        options = {"k": task.k} if task.kind in ("topk", "batch-topk") else {}
        torch.manual_seed(task.seed)
        self._sae = make(configure(d_in=task.d_in, d_sae=task.d_sae, device=task.device, **options))
        sparse_start(self._sae.b_enc.data, self._sae.encode, task)
        tuned = task.recipe == "tuned"
        rate = 3e-3 if tuned else _DEFAULT_RATE
        config = SAETrainerConfig(
            total_training_samples=task.steps * task.batch,
            train_batch_size_samples=task.batch,
            autocast=task.amp,
            device=task.device,
            lr=rate,
            lr_end=rate / 10,  # as its runner sets it; a constant schedule does not use it
            lr_decay_steps=task.steps // 5 if tuned else 0,
        )
        self._trainer = SAETrainer(config, self._sae, _no_batches())

    def step(self, x: Tensor) -> None:
        self._trainer.step(x)
        self._trainer.n_training_steps += 1

    def coder(self) -> Coder:
        """What its `save_inference_model` leaves: BatchTopK becomes a JumpReLU with the running threshold."""
        with tempfile.TemporaryDirectory() as folder:
            self._sae.save_inference_model(folder)
            trained = SAE.load_from_disk(folder)
        return Coder(trained.encode, trained.decode, trained.W_dec.detach().clone())


def build(task: Task) -> Run:
    """A run of the task."""
    return _Run(task)
