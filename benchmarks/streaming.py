"""Eight dictionaries from one stream, beside eight streams of one dictionary, and beside a store that is written first.

The network is a small CNN on images of 32 × 32, the rows its last feature map's places; each dictionary sees every row
once. Counted: examples that go through the network, those of a stream's sample included. Timed: the whole of each
side, in turns, and the processor's time that it took; what is compared is the ratio within a round. Memory is what the
process holds itself above what it held before (see `benchmarks.reading`); the store's side also takes the disk that it
says.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.reading import _memory
from benchmarks.timing import Spread, ratios
from unweave import StreamedRows, TopK, Training, capture, train
from unweave.dictionaries.base import Dictionary
from unweave.train import Job, train_several


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int = 4096
    epochs: int = 1
    d_sae: int = 512
    sparsities: tuple[int, ...] = (4, 8, 16, 32)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    buffer_mib: int = 32
    rounds: int = 5


def measure(plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """One row: seconds, memory and forward passes of each side, and what one stream saves."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    images = torch.rand(plan.images, 3, 32, 32)
    passed = [0]
    network[0].register_forward_hook(lambda _module, inputs, _value: passed.__setitem__(0, passed[0] + len(inputs[0])))
    jobs = [
        Job(dictionary=TopK(d_sae=plan.d_sae, k=k), training=Training(epochs=plan.epochs, learning_rate=rate))
        for k in plan.sparsities
        for rate in plan.learning_rates
    ]
    folder = scratch / "streaming"

    def stream() -> StreamedRows:
        return StreamedRows(network, images, at="3", rows="position", buffer_bytes=plan.buffer_mib << 20)

    def stored() -> object:
        shutil.rmtree(folder, ignore_errors=True)
        return train_several(capture(network, images, at="3", rows="position", out=folder), jobs)

    sides: dict[str, Callable[[], object]] = {
        "one stream": lambda: train_several(stream(), jobs),
        "a stream each": lambda: [train(stream(), job.dictionary, job.training) for job in jobs],
        "stored first": stored,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    forward, held, explained = {}, {}, {}
    try:
        for number in range(plan.rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                print(f"streaming: round {number + 1}, {name}", flush=True)
                passed[0] = 0
                with _memory() as memory:
                    started, worked = time.perf_counter(), time.process_time()
                    made = sides[name]()
                    seconds[name].append(time.perf_counter() - started)
                    busy[name].append(time.process_time() - worked)
                forward[name], held[name] = passed[0], memory
                explained[name] = _explained(made)
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [
        {
            "dictionaries": len(jobs),
            "images": plan.images,
            "rows": 64 * plan.images * plan.epochs,
            "buffer_mib": plan.buffer_mib,
            "store_mib": disk / 2**20,
            "forward_examples": forward,
            "seconds": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
            "times_as_fast": {
                name: asdict(Spread.of(values)) for name, values in ratios(seconds, "one stream").items()
            },
            "cpu_seconds": {name: asdict(Spread.of(values)) for name, values in busy.items()},
            "memory_gib": held,
            "explained_variance": explained,
        }
    ]


def _explained(made: object) -> list[float]:
    """The last that each training logged."""
    assert isinstance(made, list)
    return [one.history["explained_variance"][-1] for one in made if isinstance(one, Dictionary)]
