"""The stage: rows in, a trained dictionary out."""

import time
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from unweave.core.distributed import ALONE, Ranks, ranks
from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.stored import load
from unweave.store.rows import RowSource
from unweave.train.batches import PEEKED_BATCHES, Batches, refuse_not_finite, source_and_stream
from unweave.train.course import Course, Job, denormals_flushed
from unweave.train.parallel import Shares
from unweave.train.training import Training
from unweave.train.transfer import on_device

_BAR_EVERY_SECONDS = 0.1


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
            start is set from its first 16 batches, and so is the variance behind `explained_variance` in the history;
            training takes each batch once, in order, and `training.epochs`, `batch_size` and `shuffle` do not apply.
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
    runtime = runtime or Runtime()
    place = None if out is None else Path(out)
    job = Job(dictionary=dictionary, training=training or Training(), seed=seed, out=place)
    here = ranks()
    if here.first:
        job.check_out(overwrite=overwrite)
    source, stream = source_and_stream(rows)
    batches = Batches(source, stream, job.training, seed)
    here.same("the rows that they see", source.id)
    found = job.finished(job.identity(batches), overwrite=overwrite) if here.first else None
    if here.from_first(found is not None):
        if stream is not None:
            raise InputError(
                f"{out} is there already, and what a stream of batches will give cannot be compared with it; choose "
                "another folder or overwrite it"
            )
        made = found if found is not None else load(str(out))
        return made if runtime.split_latents else made.to(runtime.torch_device())
    refuse_not_finite(source, "the rows" if stream is None else f"the first {PEEKED_BATCHES} batches")
    return _through(job, batches, runtime, here, overwrite=overwrite)


def train_alone(rows: RowSource, job: Job, *, overwrite: bool = False, runtime: Runtime | None = None) -> Dictionary:
    """Train a dictionary in this process, whatever the number of ranks; they may do other things meanwhile.

    Args:
        rows: to train on. Of a stream that several ranks read, only a fit in closed form can be had in this way.
        job: what to train.
        overwrite: replace another artifact in the job's folder.
        runtime: device and the like.

    Raises:
        InputError: as `train`.
    """
    runtime, batches = runtime or Runtime(), Batches(rows, None, job.training, job.seed)
    found = job.finished(job.identity(batches), overwrite=overwrite)
    if found is not None:
        return found.to(runtime.torch_device())
    refuse_not_finite(rows, "the rows")
    return _through(job, batches, runtime, ALONE, overwrite=overwrite)


def _through(job: Job, batches: Batches, runtime: Runtime, here: Ranks, *, overwrite: bool) -> Dictionary:
    """From the start, or the checkpoint, to the artifact."""
    with denormals_flushed():
        course = Course(job, batches, runtime, ranks=here)
        if course.total != 0:
            _steps(course, batches, here)
        return course.finish(overwrite=overwrite)


def _steps(course: Course, batches: Batches, here: Ranks) -> None:
    """Take the steps that are left, with a progress bar."""
    shown = time.monotonic()
    shares = Shares(batches, course.step, ALONE if course.is_split else here)
    with progress(f"Training ({course.engine})", total=course.total, unit="steps") as bar, course.at_work():
        bar.advance(course.step)
        for batch in on_device(iter(shares), course.device):
            whole = shares.whole()
            course.take(batch, None if course.is_split else whole)
            if (now := time.monotonic()) - shown > _BAR_EVERY_SECONDS:
                shown = now
                bar.advance(course.step - bar.done, **course.latest())
        bar.advance(course.step - bar.done, **course.latest())
