"""What the tests of sweeps run, alone and as several processes: `python rank_sweep.py FOLDER [DIE]`."""

import os
import signal
import sys
from pathlib import Path

import rank_stream
import torch
from safetensors.torch import save_file
from torch import Tensor

from unweave.capture import StreamedRows
from unweave.core.distributed import ranks
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.recipes.sweep import sweep
from unweave.train import Job, Training, train_several
from unweave.train.trainer import Trainer

ROWS = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
SHORT = Training(epochs=3, batch_size=32)
SELDOM, ALWAYS = (Runtime(device="cpu", threads=1, checkpoint_seconds=seconds) for seconds in (60.0, 0.0))
TOO_FAST = Training(epochs=3, batch_size=32, learning_rate=1e30, scale_inputs=False)


def stream(model: torch.nn.Module) -> StreamedRows:
    """Many rows an example, in several refills."""
    return StreamedRows(
        model, rank_stream.IMAGES, at="inner.0", rows="position", batch_size=8, buffer_bytes=6000, sample_rows=60
    )


def jobs(folder: Path | None) -> list[Job]:
    """Dictionaries of several kinds, lengths and sizes of batches; the fifth fails, the last is fitted."""
    made = [
        (TopK(d_sae=16, k=2), SHORT, 0),
        (TopK(d_sae=16, k=2), SHORT, 1),
        (ReLU(d_sae=24), Training(epochs=2, batch_size=50), 0),
        (TopK(d_sae=8, k=2), Training(steps=7, batch_size=32), 2),
        (ReLU(d_sae=16), TOO_FAST, 0),
        (PCA(k=3), SHORT, 0),
    ]
    return [
        Job(dictionary=what, training=how, seed=seed, out=None if folder is None else folder / str(number))
        for number, (what, how, seed) in enumerate(made)
    ]


def _weights(name: str, one: object) -> dict[str, Tensor]:
    if not isinstance(one, Dictionary):
        assert "learning_rate" in str(one)
        return {name: torch.zeros(0)}
    return {f"{name}/{key}": value.contiguous() for key, value in one.state_dict().items()}


def main(folder: Path) -> None:
    """Train, sweep, and write what this rank got."""
    here = ranks()
    tensors: dict[str, Tensor] = {}
    for name, place in (("in memory", None), ("in folders", folder / "stored")):
        for number, one in enumerate(train_several(ROWS, jobs(place), runtime=SELDOM)):
            tensors |= _weights(f"stored, {name}: {number}", one)
    model = rank_stream.Counted()
    for number, one in enumerate(train_several(stream(model), jobs(folder / "streamed"), runtime=SELDOM)):
        tensors |= _weights(f"streamed: {number}", one)
    tensors["runs"] = torch.tensor(model.runs)
    grid, twice = [TopK(d_sae=16, k=k) for k in (1, 2, 3)], (0, 1)
    found = {"stored": sweep(ROWS[:200], grid, SHORT, test=ROWS[200:], seeds=twice, out=folder / "swept")}
    judged = stream(rank_stream.Counted())
    found["streamed"] = sweep(stream(model), grid, SHORT, test=judged, out=folder / "swept over a stream")
    for name, swept in found.items():
        for key, one in swept.dictionaries.items():
            tensors |= _weights(f"{name} {key}", one)
    here.same("the sweeps", [[repr(one.points), repr(one.controls)] for one in found.values()])
    save_file(tensors, folder / f"{here.rank}.safetensors")


def dies(folder: Path, of_stream: bool) -> None:
    """Kill rank 1 in the middle of its second dictionary, after it has left the first."""
    taken = Trainer.train_batch

    def train_batch(self: Trainer, *arguments: object) -> None:
        taken(self, *arguments)  # type: ignore[arg-type]
        if ranks().rank == 1 and self.step == (120 if of_stream else 30):  # when the short one is done
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.train_batch = train_batch  # type: ignore[method-assign]
    again(folder, of_stream)


def again(folder: Path, of_stream: bool) -> None:
    """Train a short one and a long one on each rank."""
    long = Training(epochs=10, batch_size=32)
    short = Training(steps=10, batch_size=32)
    rows = stream(rank_stream.Counted()) if of_stream else ROWS
    some = [
        Job(dictionary=TopK(d_sae=16, k=2), training=how, seed=seed, out=folder / f"{how.steps}-{seed}")
        for how in (long, short)
        for seed in (0, 1)
    ]
    train_several(rows, some, runtime=ALWAYS)


if __name__ == "__main__":
    place, what = Path(sys.argv[1]), sys.argv[2:]
    if not what:
        main(place)
    else:
        {"dies": dies, "again": again}[what[0]](place, what[1:] == ["stream"])
    ranks().close()
