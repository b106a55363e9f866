"""Pieces of an activation store that is being written: which batches lie in a whole file, and what they sum up to.

Beside each whole file of a draft stands a note, so that a capture that was cut short goes on with what is there.
"""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unweave.core.config import Json, fingerprint
from unweave.store.artifact import FileEntry
from unweave.store.rows import MomentSums

_SUM_ROWS = 4096
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class ShardSums:
    """Moments of a shard: number of rows, their sum, and their squared distance to their own mean."""

    n: int
    sum: Float64[Tensor, " d_in"]
    spread: float

    @classmethod
    def of(cls, rows: Float[Tensor, "n d_in"]) -> "ShardSums":
        """Of rows as they are stored, at least one."""
        sums = MomentSums(rows.shape[1])
        for block in rows.split(_SUM_ROWS):
            sums.add(block)
        moments = sums.moments()
        return cls(len(rows), moments.mean * len(rows), moments.variance * len(rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Consecutive batches whose rows lie in one file.

    Attributes:
        name: of the file, inside the draft.
        first: number of the first batch.
        rows: rows of each batch; where all are 0 there is no file.
        sums: of a whole shard.
        file: its size and checksum, once it is whole.
        facts: what else is to be known where it ends, as JSON values.
    """

    name: str
    first: int
    rows: tuple[int, ...]
    sums: ShardSums | None = None
    file: FileEntry | None = None
    facts: Json = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Number of the first batch after it."""
        return self.first + len(self.rows)

    @property
    def note(self) -> str:
        """File name of its note."""
        return f"{self.first:09d}-{self.stop:09d}.json"


def to_note(piece: Piece) -> str:
    """A piece as the text of a note; sums keep their bits."""
    said: Json = {"name": piece.name, "first": piece.first, "rows": list(piece.rows), "facts": piece.facts}
    if piece.file is not None:
        said |= {"size": piece.file.size, "crc32": piece.file.crc32}
    if piece.sums is not None:
        content = base64.b64encode(piece.sums.sum.numpy().tobytes()).decode()
        said |= {"sum": content, "spread": piece.sums.spread.hex()}
    return json.dumps({**said, _CHECKSUM: fingerprint(said)})


def from_note(text: str | bytes) -> Piece | None:
    """The piece that a note tells of; None where the note was not written to its end, or changed."""
    try:
        said: dict[str, Any] = json.loads(text)
        if said.pop(_CHECKSUM) != fingerprint(said):
            return None
        rows, sums = tuple(map(int, said["rows"])), None
        if "sum" in said:
            content = bytearray(base64.b64decode(said["sum"]))
            total = torch.frombuffer(content, dtype=torch.float64)
            sums = ShardSums(sum(rows), total, float.fromhex(said["spread"]))
        file = FileEntry(size=said["size"], crc32=said["crc32"]) if "size" in said else None
        return Piece(
            name=said["name"], first=int(said["first"]), rows=rows, sums=sums, file=file, facts=dict(said["facts"])
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_note(folder: Path, piece: Piece) -> None:
    """Put a piece's note into a folder, whole or not at all."""
    half = folder / f"{piece.note}.half"
    half.write_text(to_note(piece))
    half.replace(folder / piece.note)


def read_notes(folder: Path) -> list[Piece]:
    """The pieces that notes in a folder tell of, in the order of their batches; what is no whole note is removed."""
    found = {path: from_note(path.read_bytes()) for path in sorted(folder.glob("*.json"))}
    for path in (*folder.glob("*.half"), *(path for path, piece in found.items() if piece is None)):
        path.unlink(missing_ok=True)
    return [piece for piece in found.values() if piece is not None]
