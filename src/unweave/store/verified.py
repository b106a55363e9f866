"""What verifying finds, in a folder or at a URL."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Verified:
    """What was found.

    Attributes:
        artifacts: how many were looked through.
        files: how many were compared with their checksum, or read through.
        bytes: of those.
        damaged: what is wrong, and with which file: a line each.
        left: drafts that killed processes left, or work in; the next one that writes there goes on with them or
            removes them.
    """

    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    left: list[Path | str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{self.artifacts:,} artifacts, {self.files:,} files, {self.bytes / 1e6:,.1f} MB"
        return f"{found}: " + (f"{len(self.damaged):,} damaged" if self.damaged else "as they were written")
