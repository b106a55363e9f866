"""dictionary_learning, driven through its trainers' `update`.

Its warm-ups count in steps (1,000 for the rate, 2,000 for the penalty) and its trainers refuse a run that is shorter;
where a run is, a warm-up is cut to half of it. The same goes for the step at which BatchTopK begins to estimate the
threshold of its inference.
"""

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from benchmarks.peers.protocol import KINDS, Coder, Kind, Run, Task, sparse_start

NAME = "dictionary_learning"
DISTRIBUTION = "dictionary-learning"
HAS_AMP = False
RECIPES: dict[Kind, tuple[str, ...]] = dict.fromkeys(KINDS, ("default", "tuned"))
_TRAINERS = {
    "topk": TopKTrainer,
    "batch-topk": BatchTopKTrainer,
    "relu": StandardTrainer,
    "jumprelu": JumpReluTrainer,
}


def _options(task: Task) -> dict[str, object]:
    half = task.steps // 2
    options: dict[str, object] = {"warmup_steps": min(1000, half)}
    if task.recipe == "tuned":
        options = {"lr": 3e-3, "warmup_steps": task.steps // 50, "decay_start": task.steps * 4 // 5}
    if task.kind in ("topk", "batch-topk"):
        return {**options, "k": task.k, "threshold_start_step": min(1000, half)}
    warm = task.steps // 10 if task.recipe == "tuned" else min(2000, half)
    options["sparsity_warmup_steps"] = warm
    return {**options, "target_l0": float(task.k)} if task.kind == "jumprelu" else options


class _Run(Run):
    """One dictionary in training."""

    def __init__(self, task: Task) -> None:
        self._kind = task.kind
        self._trainer = _TRAINERS[task.kind](
            steps=task.steps,
            activation_dim=task.d_in,
            dict_size=task.d_sae,
            layer=0,
            lm_name="benchmark",
            seed=task.seed,
            device=task.device,
            **_options(task),
        )
        dictionary = self._trainer.ae
        bias = dictionary.b_enc if task.kind == "jumprelu" else dictionary.encoder.bias
        sparse_start(bias.data, dictionary.encode, task)
        self._step = 0

    def step(self, x: Tensor) -> None:
        self._trainer.update(self._step, x)
        self._step += 1

    def coder(self) -> Coder:
        """BatchTopK encodes with its running threshold, as its `encode` does by default."""
        trained = self._trainer.ae
        decoder = trained.W_dec if self._kind == "jumprelu" else trained.decoder.weight.T
        return Coder(trained.encode, trained.decode, decoder.detach().clone())


def build(task: Task) -> Run:
    """A run of the task."""
    return _Run(task)
