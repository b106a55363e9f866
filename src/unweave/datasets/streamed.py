"""Images that are read once, in order, from a source without an index."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.datasets.base import Dataset, ImageBatch
from unweave.datasets.decoding import Decoded, FileDecoder, cores
from unweave.datasets.folder_scan import listed
from unweave.datasets.sources import ImageSources

_LOG = logging.getLogger(__name__)
_MOST_THREADS = 16


class Encoded(NamedTuple):
    """An image as it came: what it is called, its bytes, and the number of its class (0 where there are none)."""

    name: str
    content: bytes
    label: int


class Held(ImageSources):
    """Encoded images that lie in memory."""

    def __init__(self, images: list[Encoded], class_names: list[str], where: str) -> None:
        self._images, self._where = images, where
        self.labels = np.asarray([image.label for image in images], np.int64)
        self.class_names = class_names

    @property
    def where(self) -> str:
        """Where they came from."""
        return self._where

    def name(self, row: int) -> str:
        """What one was called there."""
        return self._images[row].name

    def content(self, row: int) -> Path | BytesIO:
        """One of them."""
        return BytesIO(self._images[row].content)

    def select(self, rows: Int64[np.ndarray, " m"]) -> "Held":
        """Only these, in this order."""
        return Held([self._images[row] for row in rows], self.class_names, self._where)

    def stamp(self) -> str:
        """Nothing: what is held for a moment is never compared."""
        return ""


class StreamedImages(Dataset):
    """Images of one size that come in their own order, decoded ahead; how many there are shows at the end.

    Each pass reads the source anew. `example` of a batch counts what came, whether or not it could be read.

    Attributes:
        shape: channels, height and width of every image.
    """

    def __init__(
        self,
        source: Callable[[], Iterator[Encoded]],
        framing: Framing,
        channels: int,
        class_names: list[str],
        *,
        name: str,
        where: str,
        most: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self._source, self._framing, self._most, self._skip = source, framing, most, skip_broken
        self.shape = (channels, framing.height, framing.width)
        self.class_names, self.id, self._where = class_names, name, where

    def __len__(self) -> int:
        raise InputError(f"how many images {self._where} holds is not known before it has been read; it is a stream")

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order, as floats in [0, 1]; the next batch is read and decoded while one is in use.

        Raises:
            InputError: an image cannot be read, and such are not to be skipped; or there is none.
        """
        images = islice(self._source(), self._most)
        reader, pool = ThreadPoolExecutor(1), ThreadPoolExecutor(min(_MOST_THREADS, cores()))
        start = 0
        lost: list[str] = []
        try:
            coming = reader.submit(self._next, images, batch_size, pool)
            while (found := coming.result()) is not None:
                coming = reader.submit(self._next, images, batch_size, pool)
                held, (pixels, broken) = found
                lost += broken.values()
                if broken and not self._skip:
                    what = f"{listed(broken.values())}; mend or remove it"
                    raise InputError(f"{what}, or leave such images out with --data.on-broken skip")
                kept = torch.tensor([row for row in range(len(held)) if row not in broken], dtype=torch.int64)
                if len(kept):
                    labels = torch.from_numpy(held.labels)[kept]
                    yield ImageBatch(pixels[kept].float() / 255, labels, kept + start)
                start += len(held)
        finally:
            reader.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
        if lost:
            _LOG.warning(
                "%s: %s images cannot be read and are left out: %s", self._where, f"{len(lost):,}", listed(lost)
            )
        if start == 0:
            raise InputError(f"{self._where} holds no image")

    def _next(self, images: Iterator[Encoded], size: int, pool: ThreadPoolExecutor) -> tuple[Held, Decoded] | None:
        held = Held(list(islice(images, size)), self.class_names, self._where)
        if not len(held):
            return None
        return held, FileDecoder(held, self._framing, self.shape[0]).by_threads(range(len(held)), pool)
