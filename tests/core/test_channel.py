import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import distributed as dist

from unweave.core.channel import Channel, ChannelEndedError

Make = Callable[..., list[Channel]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes channels of several ranks of one machine, here in one process."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    made: list[Channel] = []

    def some(size: int, store: Any = None) -> list[Channel]:
        store = store or dist.HashStore()
        for rank in range(size):
            store.set(f"process/{rank}", f"here {rank}")
        made.extend(now := [Channel(rank, size, store, "test/1") for rank in range(size)])
        return now

    yield some
    for one in made:
        one.close()


def _together(channels: list[Channel], give: Callable[[int], Any]) -> list[list[Any]]:
    with ThreadPoolExecutor(len(channels)) as pool:
        asked = [pool.submit(one.all, *give(rank)) for rank, one in enumerate(channels)]
        return [future.result(timeout=30) for future in asked]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everybody_gets_what_everybody_gives_in_the_order_of_the_ranks(make: Make, size: int) -> None:
    channels = make(size)
    for again in range(3):
        found = _together(channels, lambda rank: ({"from": rank, "again": again}, [torch.full((rank, 3), float(rank))]))  # noqa: B023
        for of_one in found:
            assert [value for value, _ in of_one] == [{"from": rank, "again": again} for rank in range(size)]
            for rank, (_, (tensor,)) in enumerate(of_one):
                assert tensor.shape == (rank, 3)
                assert bool((tensor == rank).all())


def test_values_keep_their_type_and_their_bits(make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(4, 5, generator=generator).to(kind)
        for kind in (torch.float32, torch.float16, torch.bfloat16, torch.int64)
    ]
    given += [torch.randn(6, 4, generator=generator).T, torch.zeros(0, 7), torch.tensor([[float("nan"), float("inf")]])]
    # more than a socket takes at once
    large = torch.randint(0, 255, (3 << 20,), dtype=torch.uint8, generator=generator)
    (_, (_, received)), _ = _together(make(2), lambda rank: (None, [*given, large]))
    for one, other in zip([*given, large], received, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.contiguous().view(-1).view(torch.uint8), other.view(-1).view(torch.uint8))


def test_a_side_that_closes_releases_the_other(make: Make) -> None:
    first, second = make(2)
    _together([first, second], lambda rank: (rank,))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.all, "is anybody there?")
        second.close()
        with pytest.raises(ChannelEndedError):
            waiting.result(timeout=30)


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_ranks_that_never_come_can_be_released(make: Make, rank: int) -> None:
    alone = make(2)[rank]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(alone.all, None)
        time.sleep(0.2)
        alone.close()
        with pytest.raises(ChannelEndedError):
            waiting.result(timeout=30)


def test_who_waits_for_a_rank_that_died_is_told() -> None:
    store = dist.HashStore()
    for rank in (0, 1):
        store.set(f"process/{rank}", f"here {rank}")
    with pytest.raises(ChannelEndedError, match="a rank is gone"):
        Channel(0, 2, store, "test/1", gone=lambda: True).all(None)


def test_a_stranger_is_not_let_in(make: Make) -> None:
    store = dist.HashStore()
    first, second = make(2, store)
    found: list[Any] = []
    meeting = threading.Thread(target=lambda: found.extend(first.all("secret")))
    meeting.start()
    store.wait(["test/1/0"])
    host, port, _ = store.get("test/1/0").decode().split()
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"0" * 32 + (1).to_bytes(4, "big"))
        assert stranger.recv(1) == b"", "hung up"
    assert second.all("known")[0][0] == "secret"
    meeting.join(30)
    assert [value for value, _ in found] == ["secret", "known"]
