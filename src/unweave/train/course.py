"""One dictionary on its way from its configuration to its artifact, alone or beside others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.config import to_json
from unweave.core.distributed import ALONE, Ranks
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import KIND, Dictionary, DictionaryConfig, dictionary_identity
from unweave.dictionaries.kernels import choose_kernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.stored import load
from unweave.dictionaries.whole import WholeBatch
from unweave.store.artifact import Identity, Manifest, check_before, existing, writing
from unweave.train.batches import Batches
from unweave.train.checkpoint import Checkpoint
from unweave.train.precision import products
from unweave.train.split import Split, SplitKernels, revived_at_most
from unweave.train.trainer import Trainer
from unweave.train.training import Training

_PAUSE_A_COST = 50  # a checkpoint may take a fiftieth of the time ...
_MOST_PAUSES = 30  # ... but comes at least every 30 times the seconds that were asked for
_DENSE_PRODUCTS = 6
_FLOPS_A_WORKER = 5e7  # workers of the sparse step wait for each other without spinning


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dictionary to train.

    Attributes:
        dictionary: what.
        training: how.
        seed: decides the start and the order of the rows.
        out: the folder of its artifact, where it leaves one.
    """

    dictionary: DictionaryConfig
    training: Training
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dictionary, DictionaryConfig):
            raise InputError(
                f"dictionary must be a configuration such as TopK(d_sae=1024, k=16), got {self.dictionary!r}"
            )

    def identity(self, batches: Batches) -> Identity:
        """What its artifact is."""
        source = batches.source
        inputs = {"first batches" if batches.per_epoch is None else "activations": source.id}
        if (order := getattr(source, "order_id", None)) is not None:  # windows that are not of the usual size
            inputs["order"] = order
        return dictionary_identity(self.dictionary, source.d_in, inputs, training=self.training, seed=self.seed)

    def check_out(self, *, overwrite: bool = False) -> None:
        """Refuse a folder that is wrong whatever the rows are: those of a stream cost model passes.

        Raises:
            InputError: something else stands there, or nothing can be written.
        """
        if self.out is not None:
            check_before(self.out, KIND, self._made, overwrite=overwrite)

    def _made(self, manifest: Manifest) -> bool:
        """Whether a dictionary may be this job's, of some rows."""
        known = {"dictionary": to_json(self.dictionary), "training": to_json(self.training)}
        there = {name: manifest.config.get(name) for name in known}
        return there == known and manifest.seed == self.seed

    def finished(self, identity: Identity, *, overwrite: bool = False) -> Dictionary | None:
        """Its dictionary, where the artifact is there already.

        Raises:
            InputError: something else stands in its place and `overwrite` is not set.
        """
        if self.out is None or not existing(self.out, identity, overwrite=overwrite):
            return None
        Checkpoint(self.out, identity.id).remove()  # where the run was killed after its last step
        return load(self.out)


class Course:
    """A job under way. To be made in the thread and with the CPU threads that a training alone would have.

    Attributes:
        job: what is trained.
        total: steps to take, where that is known; 0 for what is fitted in closed form.
        threads: CPU threads that its steps occupy.
        seconds: spent on it, before it was taken up as well.
    """

    def __init__(
        self,
        job: Job,
        batches: Batches,
        runtime: Runtime,
        *,
        most_workers: int | None = None,
        crowd: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Set the start, or fit, or take up the checkpoint.

        Args:
            job: what to train.
            batches: what it will see.
            runtime: device and the like.
            most_workers: CPU threads that may share a sparse step; its result does not depend on their number.
            crowd: how many courses share a thread; checkpoints then come less often.
            ranks: the processes that take its steps together; the first sets the start (or fits), and writes.
        """
        self.seconds = 0.0
        started = time.monotonic()
        self.job = job
        self._ranks = ranks
        self._identity = job.identity(batches)
        self._batches = batches
        self._runtime = runtime
        whole = job.dictionary.build(batches.source.d_in)
        self._split: Split | None = None
        if runtime.split_latents and ranks.size > 1 and whole.trained_by_gradient:
            self._split = Split(job.dictionary, whole.d_in, ranks)
        whole = whole if self._split is not None else whole.to(runtime.torch_device())
        if ranks.first:
            whole.prepare(batches.start, torch_generator(job.seed, "dictionary"))
        if self._split is None:
            ranks.take_first(*whole.state_dict().values())
            whole.history = ranks.from_first(whole.history)
            self._dictionary = whole
        else:
            self._dictionary = self._split.take(whole).to(runtime.torch_device())
        self._dictionary.hook_name = getattr(batches.source, "hook_name", "")
        self._scale = 1.0
        self._checkpoint: Checkpoint | None = None
        self._trainer: Trainer | None = None
        self.total: int | None = 0
        self.threads = 1
        if self._dictionary.trained_by_gradient:
            self.total = batches.total
            self._trainer = self._set_up(most_workers)
            if job.out is not None and batches.per_epoch is not None:
                self._checkpoint = Checkpoint(job.out, self._identity.id)
                self._checkpoint.restore(self._trainer)
                self.seconds += self._checkpoint.seconds
                ranks.same("the step of their checkpoints", self._trainer.step)
        self._crowd = crowd
        self._saved = self._begun = time.monotonic()
        self._pause = runtime.checkpoint_seconds
        self.seconds += self._saved - started

    def _set_up(self, most_workers: int | None) -> Trainer:
        """The trainer, and the CPU threads that `at_work` gives it."""
        dictionary, training, source = self._dictionary, self.job.training, self._batches.source
        variance = source.moments().variance
        if training.scale_inputs and variance > 0:
            self._scale = (dictionary.d_in / variance) ** 0.5
        if self._scale != 1:
            dictionary.rescale(self._scale)
        product = 2 * training.batch_size * dictionary.d_in * dictionary.d_sae
        sparse = self._runtime.engine != "dense" and dictionary.has_sparse_step()
        if self._runtime.engine == "sparse" and not sparse:
            raise InputError(f"--engine sparse: {dictionary.config.kind} has no sparse step; use auto or dense")
        if sparse:
            workers = min(self._runtime.workers_for(product, least=_FLOPS_A_WORKER), most_workers or product)
            self._kernels = choose_kernels(dictionary.device, workers=workers, precision=training.encoder_precision)
            self._torch_threads = torch.get_num_threads()
            if self._split is not None:
                self._kernels = SplitKernels(self._kernels, self._ranks, revived_at_most(dictionary))
        else:
            if self._split is not None:
                raise InputError("--split-latents is for the sparse step alone; leave --engine dense out")
            workers = 1
            self._kernels = TorchKernels()
            self._torch_threads = self._runtime.workers_for(_DENSE_PRODUCTS * product)
        with self.at_work():
            self.threads = max(workers, torch.get_num_threads())
        return Trainer(
            dictionary,
            training,
            self._kernels,
            total=self.total,
            steps_per_epoch=self._batches.per_epoch,
            scale=self._scale,
            variance=variance,
            sparse=sparse,
            split=self._split,
        )

    @property
    def is_split(self) -> bool:
        """Whether each process holds a part of the dictionary, and all see every batch."""
        return self._split is not None

    @property
    def device(self) -> torch.device:
        """Where its steps are taken."""
        return self._dictionary.device

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary as it stands."""
        return self._dictionary

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._trainer.step if self._trainer is not None else 0

    @property
    def done(self) -> bool:
        """Whether all of its known number of steps are taken."""
        return self.step == self.total

    @property
    def engine(self) -> str:
        """What it is computed with."""
        return "closed form" if self._trainer is None else self._trainer.engine

    def latest(self) -> dict[str, float]:
        """The newest numbers that a progress bar shows."""
        return self._trainer.latest() if self._trainer is not None else {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The operations and CPU threads of its steps, for the calling thread."""
        before = torch.get_num_threads()
        self._begun = time.monotonic()
        torch.set_num_threads(self._torch_threads)
        try:
            with self._kernels, products(self.device, self.job.training.encoder_precision):
                yield
        finally:
            torch.set_num_threads(before)
            self.seconds += time.monotonic() - self._begun

    def take(self, batch: Float[Tensor, "b d_in"], whole: WholeBatch | None = None) -> None:
        """One step, inside `at_work`, and a checkpoint where it is time."""
        assert self._trainer is not None
        self._trainer.train_batch(batch, whole)
        if self._checkpoint is None:
            return
        now = time.monotonic()
        due = self._ranks.first and now - self._saved > self._pause
        if self._split is not None:  # all hold a part of it, and the first knows when
            due = self._split.agree(due)
        if not due:
            return
        if not self._ranks.first:
            self._checkpoint.save(self._trainer, write=False)
            return
        self._checkpoint.save(self._trainer, seconds=self.seconds + now - self._begun)
        self._saved = time.monotonic()
        asked, cost = self._runtime.checkpoint_seconds, (self._saved - now) * self._crowd
        self._pause = max(asked, min(_PAUSE_A_COST * cost, _MOST_PAUSES * asked))

    def finish(self, *, overwrite: bool = False) -> Dictionary:
        """Leave the artifact, where it has a place.

        Returns:
            The dictionary, frozen for inference, its `history` filled.

        Raises:
            InputError: a stream ended too early, or something else has come into the artifact's place.
        """
        if self._trainer is not None:
            self._trainer.finish()
            if self.total is not None and self.step < self.total:
                raise InputError(f"the iterator of batches ended after {self.step} of {self.total} steps")
            if self._scale != 1:
                self._dictionary.rescale(1 / self._scale)
            if self._split is not None:
                self._dictionary = self._split.assembled(self._dictionary)
            self._dictionary.history = self._trainer.history
        trained = self._dictionary.to_inference()
        if self.job.out is not None and self._ranks.first:
            with writing(self.job.out, self._identity, overwrite=overwrite) as draft:
                draft.before = self.seconds
                trained.write(draft)
                draft.details.update(train_seconds=round(self.seconds, 3), engine=self.engine, **self._batches.details)
            Checkpoint(self.job.out, self._identity.id).remove()
        self._ranks.barrier()
        return trained


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Weights of dead latents decay into denormal numbers, which make a CPU's step several times slower."""
    before = float(torch.tensor([1e-40]).mul(1.0)) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
