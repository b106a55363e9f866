"""Folders for results that nobody gave a place: they go when the last object that uses them goes."""

import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A temporary folder, removed with this object or at the end of the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="unweave-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
