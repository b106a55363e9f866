"""What does not change a result: device, threads and how often work in progress is saved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from unweave.core.distributed import rank_device, ranks
from unweave.core.errors import InputError

_FLOPS_A_THREAD = 1.5e8  # two to three milliseconds of one core


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How to run; never part of a configuration's fingerprint."""

    device: str = "auto"
    "where tensors live: auto (cuda where there is one), cpu, cuda, cuda:1, mps"
    threads: int | None = None
    "CPU threads for torch; by default its own choice, and fewer for training steps too small to share"
    engine: Literal["auto", "sparse", "dense"] = "auto"
    "how training steps are computed: from active entries alone where the dictionary has a sparse step (auto; sparse \
refuses any other), or by autograd over everything (dense, the specification); equal up to rounding"
    split_latents: bool = False
    "of several processes: each holds some of the latents, for a dictionary that one device cannot hold; else each \
holds all of them and takes a part of every batch"
    checkpoint_seconds: float = 10.0
    "how often training writes a checkpoint; less often where writing takes more than a fiftieth of the time"

    def apply(self) -> None:
        """Set what is a process's own: the number of CPU threads.

        Raises:
            InputError: it is below 1, or the time between checkpoints below 0.
        """
        if self.threads is not None:
            if self.threads < 1:
                raise InputError(f"--threads must be at least 1, got {self.threads}")
            torch.set_num_threads(self.threads)
        if not self.checkpoint_seconds >= 0:
            raise InputError(f"--checkpoint-seconds must be at least 0, got {self.checkpoint_seconds}")

    def workers_for(self, flops: float, *, least: float = _FLOPS_A_THREAD) -> int:
        """CPU threads for steps of so many floating-point operations, of which each thread should get `least`."""
        return self.threads or max(1, min(torch.get_num_threads(), int(flops / least)))

    @contextmanager
    def threads_for(self, flops: float) -> Iterator[None]:
        """Set the CPU threads of torch inside the block, for steps of so many floating-point operations.

        A small step gains little from a second thread, and loses much wherever another process uses that core: threads
        wait for each other several times a step.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self.workers_for(flops))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def torch_device(self) -> torch.device:
        """The device to use.

        Raises:
            InputError: the device is not one, or is not on this machine.
        """
        if self.device in {"auto", "cuda"} and torch.cuda.is_available() and ranks().size > 1:
            return rank_device()
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda", "mps"):
            raise InputError(f"--device {self.device!r} is no device: use auto, cpu, cuda, cuda:N or mps")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"--device {self.device}: this machine has no CUDA device; use cpu or auto")
        if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
            raise InputError(f"--device {self.device}: this machine has {count} CUDA devices, counted from cuda:0")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise InputError("--device mps: this machine has no Metal device; use cpu or auto")
        return device


@torch.no_grad()
def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of what `run` computes with torch, as far as torch can count them."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - it imports Triton, which takes long

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
