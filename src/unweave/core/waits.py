"""Which is the limit: reading examples, or the network that is shown them."""

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_LEAST_SECONDS = 5.0


class Waits(Generic[T]):
    """Goes through what is read ahead in the background, and measures how long it keeps its user waiting.

    Attributes:
        waited: seconds so far until the next one was there.
        used: seconds in between, while one was in use.
    """

    def __init__(self, source: Iterable[T]) -> None:
        self._source = source
        self.waited = self.used = 0.0

    def __iter__(self) -> Iterator[T]:
        source = iter(self._source)
        while True:
            asked = time.monotonic()
            try:
                one = next(source)
            except StopIteration:
                return
            got = time.monotonic()
            self.waited += got - asked
            yield one
            self.used += time.monotonic() - got

    def said(self, examples: int) -> str:
        """Which was the limit, with the rates of both; "" where it was over at once."""
        total = self.waited + self.used
        if total < _LEAST_SECONDS or not examples:
            return ""
        share, alone = 100 * self.waited / total, examples / max(self.used, 1e-9)
        if self.waited > self.used:
            return (
                f"Reading examples was the limit ({examples / total:,.0f} a second): the network waited {share:.0f} % "
                f"of the time, and would take {alone:,.0f} a second. Smaller files, or more cores, help"
            )
        return (
            f"The network was the limit ({alone:,.0f} examples a second): it waited {share:.0f} % of the time for them"
        )
