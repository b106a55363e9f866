"""Where encoded images come from: files, members of archives, rows of a table."""

from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Int64


class ImageSources(ABC):
    """Encoded images by number, with the class of each. Worker processes get a copy, so it is small and can be sent.

    Attributes:
        labels: class of each image.
        class_names: a name for each class.
    """

    labels: Int64[np.ndarray, " n"]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def where(self) -> str:
        """Where they lie, for messages."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What one is called, for messages."""

    @abstractmethod
    def content(self, row: int) -> Path | BytesIO:
        """One of them as it is encoded: its file, or what would be in it."""

    @abstractmethod
    def select(self, rows: Int64[np.ndarray, " m"]) -> "ImageSources":
        """Only these, in this order."""

    @abstractmethod
    def stamp(self) -> str:
        """Changes when any of them does, as far as can be told without reading them all."""
