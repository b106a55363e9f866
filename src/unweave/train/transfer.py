"""Between host and device without waiting: batches on their way in, and small answers on their way out."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Bool
from torch import Tensor

_AHEAD = 2
_LAG = 2


def on_device(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same batches on a device; towards a GPU two of them are under way while a third is worked on.

    A thread reads them and puts them into pinned memory, from which the GPU fetches them on a stream of its own.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    stream = torch.cuda.Stream(device)

    def fetch() -> tuple[Tensor, torch.cuda.Event] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        ready = batch if batch.is_cuda or batch.is_pinned() else batch.pin_memory()
        with torch.cuda.stream(stream):
            arrived = ready.to(device, non_blocking=True)
            return arrived, stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="to-device") as reader:
        ahead: deque[Future[tuple[Tensor, torch.cuda.Event] | None]] = deque(
            reader.submit(fetch) for _ in range(_AHEAD)
        )
        while (fetched := ahead.popleft().result()) is not None:
            ahead.append(reader.submit(fetch))
            arrived, event = fetched
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            arrived.record_stream(current)  # its memory is not given away before the step has read it
            yield arrived


class Delayed:
    """Masks of a device as the host learns of them, two steps late, so that it never waits for the step under way.

    Whether this is a GPU or not, the delay is the same: a result does not depend on how fast a device is.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._held: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        self.restore(torch.zeros(_LAG, size, dtype=torch.bool))

    def exchange(self, mask: Bool[Tensor, " size"]) -> Bool[Tensor, " size"]:
        """Take the newest mask, and give the one of two steps ago, on the host."""
        if self._on_gpu:
            copy = torch.empty(mask.shape, dtype=torch.bool, pin_memory=True)
            copy.copy_(mask, non_blocking=True)
            self._held.append((copy, torch.cuda.current_stream(mask.device).record_event()))
        else:
            self._held.append((mask.detach().cpu().clone(), None))
        old, event = self._held.popleft()
        if event is not None:
            event.synchronize()  # of two steps ago: it has long come
        return old

    def state(self) -> Bool[Tensor, "lag size"]:
        """The masks that are under way."""
        for _, event in self._held:
            if event is not None:
                event.synchronize()
        return torch.stack([mask for mask, _ in self._held])

    def restore(self, masks: Bool[Tensor, "lag size"]) -> None:
        """Take up what `state` gave."""
        self._held = deque((mask.clone(), None) for mask in masks.cpu())
