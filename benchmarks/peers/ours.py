"""Unweave, driven through `unweave.train` itself, and on a GPU through the course that it takes."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager

from torch import Tensor

from benchmarks.peers.loops import SteppedLoop, forever
from benchmarks.peers.protocol import KINDS, OURS, Coder, Kind, Run, Task, sparse_start
from unweave import Runtime, Training, train
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.store.rows import TensorRows
from unweave.train.batches import Batches
from unweave.train.course import Course, Job

NAME = OURS
DISTRIBUTION = "unweave"
HAS_AMP = False
# "float32" is the default with the encoder's product, and nothing else, in float32 instead of bfloat16.
RECIPES: dict[Kind, tuple[str, ...]] = {
    kind: ("default", "tuned", "float32") for kind in KINDS if kind in DictionaryConfig.registry.members()
}
_OPTIONS = {
    "default": {},
    "tuned": {"learning_rate": 3e-3},
    "float32": {"encoder_precision": "float32"},
}


class _Fed(TensorRows):
    """Rows to set the start from, and batches as they are handed over."""

    def feed(self, batches: Iterator[Tensor]) -> "_Fed":
        self._batches = batches
        return self

    def batches(self, batch_size: int, **order: object) -> Iterator[Tensor]:
        return self._batches


class _Run(Run):
    """One dictionary in training. Rows have variance 1 a dimension already, so training scales them by 1."""

    def __init__(self, task: Task) -> None:
        options = {"k": task.k} if task.kind in ("topk", "batch-topk") else {}
        config = DictionaryConfig.registry[task.kind](d_sae=task.d_sae, **options)
        object.__setattr__(config, "build", lambda d_in: self._built(type(config).build(config, d_in), task))
        training = Training(steps=task.steps, batch_size=task.batch, **_OPTIONS[task.recipe])
        rows = _Fed(task.rows)
        self._loop = SteppedLoop(
            lambda next_batch: train(rows.feed(forever(next_batch)), config, training, seed=task.seed)
        )

    def _built(self, dictionary: Dictionary, task: Task) -> Dictionary:
        """Keep hold of what `train` builds, and set the sparse start right after its own."""
        prepare = dictionary.prepare

        def prepared(*of: object) -> None:
            prepare(*of)
            if task.start_l0 is not None:
                sparse_start(dictionary.b_enc.data, dictionary.encode, task)

        dictionary.prepare = prepared
        self._dictionary = dictionary
        return dictionary

    def step(self, x: Tensor) -> None:
        self._loop.step(x)

    def around(self) -> AbstractContextManager[object]:
        return self._loop.around()

    def close(self) -> None:
        self._loop.close()

    def coder(self) -> Coder:
        trained = self._loop.result
        if trained is None:
            trained = copy.deepcopy(self._dictionary).to_inference()
        return Coder(trained.encode, trained.decode, trained.directions())


class _OnDevice(Run):
    """One dictionary in training on a GPU, where `train` reads batches in a thread of its own."""

    def __init__(self, task: Task) -> None:
        options = {"k": task.k} if task.kind in ("topk", "batch-topk") else {}
        training = Training(steps=task.steps, batch_size=task.batch, **_OPTIONS[task.recipe])
        job = Job(dictionary=DictionaryConfig.registry[task.kind](d_sae=task.d_sae, **options), training=training)
        batches = Batches(TensorRows(task.rows), None, training, task.seed)
        self._course = Course(job, batches, Runtime(device=task.device))
        if task.start_l0 is not None:
            dictionary = self._course.dictionary
            sparse_start(dictionary.b_enc.data, dictionary.encode, task)

    def step(self, x: Tensor) -> None:
        self._course.take(x)

    def around(self) -> AbstractContextManager[object]:
        return self._course.at_work()

    def coder(self) -> Coder:
        trained = copy.deepcopy(self._course.dictionary).to_inference()
        return Coder(trained.encode, trained.decode, trained.directions())


def build(task: Task) -> Run:
    """A run of the task."""
    return _Run(task) if task.device == "cpu" else _OnDevice(task)
