"""A training that is killed after KILL_AT steps, on every rank, and goes on: `python rank_resume.py FOLDER KILL_AT`."""

import os
import signal
import sys
from pathlib import Path

import rank_training as cases

from unweave.core.distributed import ranks
from unweave.core.runtime import Runtime
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.store.files import save_tensors
from unweave.train import train
from unweave.train.trainer import Trainer


def main(folder: Path, kill_at: int) -> None:
    step = Trainer.train_batch

    def killed(self: Trainer, *arguments: object) -> None:
        if self.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *arguments)  # type: ignore[arg-type]

    Trainer.train_batch = killed  # type: ignore[method-assign, assignment]
    config = BatchTopK(d_sae=32, k=3)
    trained = train(cases.rows(), config, cases.TRAINING, out=folder / "sae", runtime=Runtime(checkpoint_seconds=0.0))
    save_tensors(folder / f"weights.{ranks().rank}.safetensors", cases.numbers(trained))
    ranks().close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
