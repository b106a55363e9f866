"""Checkpoints: one safetensors file with the trainer's plain values in its header, replaced whole."""

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch

from unweave.core.errors import StoreError
from unweave.core.hashing import hash_tensors
from unweave.store.drafts import disk_errors, replacing
from unweave.store.verify import CHECKPOINT
from unweave.train.trainer import Trainer


class Checkpoint:
    """The checkpoint of one training, beside the place its artifact will take.

    Attributes:
        seconds: that had been spent on what was taken up.
    """

    def __init__(self, out: Path, artifact_id: str) -> None:
        self._out = Path(os.path.realpath(out)) if out.is_symlink() else out
        self.path = self._out.with_name(f".{self._out.name}{CHECKPOINT}")
        self._id = artifact_id
        self.seconds = 0.0

    def save(self, trainer: Trainer, *, seconds: float = 0.0, write: bool = True) -> None:
        """Write the trainer's state; the file is the old one or the new one, never half of it.

        Args:
            trainer: of a dictionary in parts, that of each process has to be asked.
            seconds: spent on it so far.
            write: off where another process writes.
        """
        tensors, values = trainer.state()
        if not write:
            return
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        said = json.dumps(values)
        header = {
            "artifact": self._id,
            "values": said,
            "checksum": hash_tensors(ready, said),
            "seconds": f"{seconds:.3f}",
        }
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path, swept_with=self._out) as draft:
            draft.write_bytes(safetensors.torch.save(ready, metadata=header))

    def restore(self, trainer: Trainer) -> bool:
        """Take up an earlier training of the same artifact; one of another artifact is left for `save` to replace.

        Raises:
            StoreError: the file cannot be read, or was changed.
        """
        if not self.path.is_file():
            return False
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("artifact") != self._id:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if hash_tensors(tensors, header["values"]) != header["checksum"]:
                raise ValueError("its checksum differs")
            values, seconds = json.loads(header["values"]), float(header.get("seconds", 0))
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{self.path} is damaged ({error}); remove it to train from the start") from None
        trainer.restore(tensors, values)
        self.seconds = seconds
        return True

    def step(self) -> int:
        """Steps that `restore` would take up; 0 where there are none, or what is there cannot be read."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
            return int(json.loads(header["values"])["step"]) if header["artifact"] == self._id else 0
        except (safetensors.SafetensorError, OSError, KeyError, ValueError):
            return 0

    def remove(self) -> None:
        """Forget it: the artifact is in its place."""
        self.path.unlink(missing_ok=True)


def read_history(path: Path) -> dict[str, list[float]]:
    """What a training under way has logged by its last checkpoint, without its weights; {} where there is none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            return {str(name): list(column) for name, column in values["history"].items()}
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        return {}  # the training has ended meanwhile
