"""sparsify, driven through its `Trainer.fit`, with rows where a language model's activations would be.

It has TopK only. "default" is its optimiser as shipped (Signum, schedule-free), "adam" its Adam with its own warm-up
and linear decay, "tuned" Adam at 3e-3 with a short warm-up.
"""

from contextlib import AbstractContextManager

import sparsify.trainer
import torch
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.peers.loops import SteppedLoop
from benchmarks.peers.protocol import Coder, Kind, Run, Task

NAME = "sparsify"
DISTRIBUTION = "eai-sparsify"
HAS_AMP = False
RECIPES: dict[Kind, tuple[str, ...]] = {"topk": ("default", "adam", "tuned")}
_HOOK = "rows"
_NEVER = 1 << 40


def _no_bar(**options: object) -> tqdm:
    return tqdm(**{**options, "disable": True})


sparsify.trainer.tqdm = _no_bar  # the bars of several runs would write over each other


class _Rows(nn.Module):
    """Stands where the language model would: its one layer gives the batch."""

    def __init__(self, d_in: int, device: str) -> None:
        super().__init__()
        self.rows = nn.Identity()
        self.device = torch.device(device)
        self.batch = torch.zeros(1, 1, d_in, device=self.device)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.rows(self.batch)


class _Tokens:
    """A data set with an item a step: as many tokens as the batch that `fit` is about to see has rows."""

    def __init__(self, model: _Rows, steps: int) -> None:
        self._model = model
        self._steps = steps
        self.next_batch = None

    def __len__(self) -> int:
        return self._steps + 1  # one more than there are: after the last, `fit` would write a checkpoint

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self._model.batch = self.next_batch().unsqueeze(0)
        return {"input_ids": torch.zeros(self._model.batch.shape[1], dtype=torch.long)}


def _config(task: Task) -> TrainConfig:
    options = {
        "default": {},
        "adam": {"optimizer": "adam"},
        "tuned": {"optimizer": "adam", "lr": 3e-3, "lr_warmup_steps": task.steps // 50},
    }[task.recipe]
    return TrainConfig(
        SparseCoderConfig(num_latents=task.d_sae, k=task.k),
        batch_size=1,
        hookpoints=[_HOOK],
        init_seeds=[task.seed],
        log_to_wandb=False,
        save_every=_NEVER,
        **options,
    )


class _Run(Run):
    """One dictionary in training."""

    def __init__(self, task: Task) -> None:
        model = _Rows(task.d_in, task.device)
        tokens = _Tokens(model, task.steps)
        self._trainer = Trainer(_config(task), tokens, model)
        self._sae = self._trainer.saes[_HOOK]

        def fit(next_batch):  # noqa: ANN001, ANN202
            tokens.next_batch = next_batch
            self._trainer.fit()

        self._loop = SteppedLoop(fit)

    def step(self, x: Tensor) -> None:
        self._loop.step(x)

    def around(self) -> AbstractContextManager[object]:
        return self._loop.around()

    def close(self) -> None:
        self._loop.close()

    @torch.no_grad()
    def coder(self) -> Coder:
        """With the weights that it would save: those that its schedule-free optimiser averages."""
        averaged = [optimizer for optimizer in self._trainer.optimizers if hasattr(optimizer, "eval")]
        for optimizer in averaged:
            optimizer.eval()
        encoder = self._sae.encoder.weight.clone(), self._sae.encoder.bias.clone()
        decoder, b_dec = self._sae.W_dec.clone(), self._sae.b_dec.clone()
        for optimizer in averaged:
            optimizer.train()
        k = self._sae.cfg.k

        def encode(x: Tensor) -> Tensor:
            pre = torch.relu(nn.functional.linear(x - b_dec, *encoder))
            top = pre.topk(k, dim=-1)
            return torch.zeros_like(pre).scatter(-1, top.indices, top.values)

        return Coder(encode, lambda codes: codes @ decoder + b_dec, decoder)


def build(task: Task) -> Run:
    """A run of the task."""
    return _Run(task)
