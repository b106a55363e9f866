"""The stage: rows in, a trained dictionary out."""

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.runtime import Runtime
from unweave.core.seeds import derive_seed, torch_generator
from unweave.dictionaries.base import Dictionary, DictionaryConfig, dictionary_identity, load
from unweave.store.artifact import existing, writing
from unweave.store.rows import RowSource, TensorRows
from unweave.train.checkpoint import Checkpoint
from unweave.train.trainer import Trainer
from unweave.train.training import Training

_PEEKED_BATCHES = 16
_BAR_EVERY_SECONDS = 0.1
_PAUSE_A_COST = 50  # a checkpoint may take a fiftieth of the time ...
_MOST_PAUSES = 30  # ... but comes at least every 30 times the seconds that were asked for


def train(
    rows: RowSource | Tensor | Iterable[Tensor],
    dictionary: DictionaryConfig,
    training: Training | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    runtime: Runtime | None = None,
) -> Dictionary:
    """Train a dictionary on rows.

    Args:
        rows: captured `Activations`, a tensor [n, d_in], or any iterable of batches [b, d_in]. From an iterable the
            start is set from its first 16 batches, training takes each batch once, in order, and `training.epochs`,
            `batch_size` and `shuffle` do not apply.
        dictionary: what to train, for example `TopK(d_sae=1024, k=16)`. A classical one is fitted in closed form.
        training: how.
        seed: decides the start and the order of the rows.
        out: a folder for the artifact. With it, training writes checkpoints, a killed run is taken up where it was and
            ends with the same bits, and a finished one is read back at once.
        overwrite: replace another artifact in `out`.
        runtime: device and the like.

    Returns:
        The dictionary, frozen for inference, its `history` filled.

    Raises:
        InputError: the rows are not [n, d_in], the settings make no sense, or the loss is no longer finite.
    """
    training, runtime = training or Training(), runtime or Runtime()
    if not isinstance(dictionary, DictionaryConfig):
        raise InputError(f"dictionary must be a configuration such as TopK(d_sae=1024, k=16), got {dictionary!r}")
    source, stream = _source(rows)
    inputs = {"activations" if stream is None else "first batches": source.id}
    identity = dictionary_identity(dictionary, source.d_in, inputs, training=training, seed=seed)
    if out is not None and existing(Path(out), identity, overwrite=overwrite):
        if stream is not None:
            raise InputError(
                f"{out} is there already, and what a stream of batches will give cannot be compared with it; choose "
                "another folder or overwrite it"
            )
        Checkpoint(Path(out), identity.id).remove()  # where the run was killed after its last step
        return load(out)
    started = time.monotonic()
    built = dictionary.build(source.d_in).to(runtime.torch_device())
    built.hook_name = getattr(source, "hook_name", "")
    with _denormals_flushed():
        built.prepare(source, torch_generator(seed, "dictionary"))
        if built.trained_by_gradient:
            checkpoint = None if out is None or stream is not None else Checkpoint(Path(out), identity.id)
            batches = _Batches(source, stream, training, seed)
            flops = 6 * training.batch_size * sum(parameter.numel() for parameter in built.parameters())
            with runtime.threads_for(flops):
                _run(built, batches, training, checkpoint, runtime.checkpoint_seconds)
    trained = built.to_inference()
    if out is not None:
        with writing(Path(out), identity, overwrite=overwrite) as draft:
            trained.write(draft)
            draft.details["train_seconds"] = round(time.monotonic() - started, 3)
        Checkpoint(Path(out), identity.id).remove()
    return trained


def _source(rows: RowSource | Tensor | Iterable[Tensor]) -> tuple[RowSource, Iterator[Tensor] | None]:
    """Rows to set the start from, and the stream of batches where the rows are one."""
    if isinstance(rows, Tensor):
        return TensorRows(rows), None
    if isinstance(rows, RowSource):
        return rows, None
    stream = _checked(rows)
    peeked = list(itertools.islice(stream, _PEEKED_BATCHES))
    if not peeked:
        raise InputError("the iterator of batches gave none")
    return TensorRows(torch.cat(peeked)), itertools.chain(peeked, stream)


def _checked(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches of a stream in float32; an error names the first that is not as the others."""
    d_in = None
    for number, batch in enumerate(batches):
        if not isinstance(batch, Tensor):
            raise InputError(f"batch {number} must be a tensor [n, d_in], got {type(batch).__name__}")
        rows = TensorRows(batch, name=f"batch {number}")
        d_in = rows.d_in if d_in is None else d_in
        if rows.d_in != d_in:
            raise InputError(f"batch {number} has rows of width {rows.d_in}, those before it {d_in}")
        yield batch.detach().float()


class _Batches:
    """The batches of a run: epochs over a source, or a stream as it comes."""

    def __init__(self, source: RowSource, stream: Iterator[Tensor] | None, training: Training, seed: int) -> None:
        self.source, self._stream, self._training = source, stream, training
        self._seed = derive_seed(seed, "order")
        self.per_epoch = None if stream is not None else -(-source.n // training.batch_size)
        self.total = training.steps or (None if self.per_epoch is None else training.epochs * self.per_epoch)

    def after(self, step: int) -> Iterator[Tensor]:
        """What is left of the run after `step` batches."""
        batches = self._stream if self._stream is not None else self._epochs(step)
        return itertools.islice(batches, None if self.total is None else self.total - step)

    def _epochs(self, step: int) -> Iterator[Tensor]:
        assert self.per_epoch is not None
        first, skip = divmod(step, self.per_epoch)
        for epoch in itertools.count(first):
            yield from self.source.batches(
                self._training.batch_size, seed=self._seed, epoch=epoch, shuffle=self._training.shuffle, skip=skip
            )
            skip = 0


def _run(
    dictionary: Dictionary,
    batches: _Batches,
    training: Training,
    checkpoint: Checkpoint | None,
    checkpoint_seconds: float,
) -> None:
    variance = batches.source.moments().variance
    scale = (dictionary.d_in / variance) ** 0.5 if training.scale_inputs and variance > 0 else 1.0
    if scale != 1:
        dictionary.rescale(scale)
    trainer = Trainer(
        dictionary, training, total=batches.total, steps_per_epoch=batches.per_epoch, scale=scale, variance=variance
    )
    if checkpoint is not None:
        checkpoint.restore(trainer)
    saved = shown = time.monotonic()
    pause = checkpoint_seconds
    with progress("Training", total=batches.total, unit="steps") as bar:
        bar.advance(trainer.step)
        for batch in batches.after(trainer.step):
            trainer.train_batch(batch)
            now = time.monotonic()
            if now - shown > _BAR_EVERY_SECONDS:
                shown = now
                bar.advance(trainer.step - bar.done, **trainer.latest())
            if checkpoint is not None and now - saved > pause:
                checkpoint.save(trainer)
                saved = time.monotonic()
                pause = max(checkpoint_seconds, min(_PAUSE_A_COST * (saved - now), _MOST_PAUSES * checkpoint_seconds))
        trainer.finish()
        bar.advance(trainer.step - bar.done, **trainer.latest())
    if trainer.total is not None and trainer.step < trainer.total:
        raise InputError(f"the iterator of batches ended after {trainer.step} of {trainer.total} steps")
    if scale != 1:
        dictionary.rescale(1 / scale)
    dictionary.history = trainer.history


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Weights of dead latents decay into denormal numbers, which make a CPU's step several times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
