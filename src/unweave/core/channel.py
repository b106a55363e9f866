"""What the ranks of a job give each other in a background thread, beside the operations that all take in one order.

Each channel has connections of its own. So several may be under way at once, and a thread that waits for another rank
is released as soon as either side closes, which the operations of `torch.distributed` do not offer.
"""

import hmac
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

_LENGTH = struct.Struct("!Q")
_GREETING = struct.Struct("!32sI")
_LOOK_SECONDS = 0.05
_GONE_EVERY_SECONDS = 1.0
_GREETING_SECONDS = 30.0

Said = tuple[Any, list[Tensor]]


class ChannelEndedError(ConnectionError):
    """This side or another one closed; why, the job's store may know."""


class Channel:
    """A way between the ranks for values and tensors, to be used by one thread at a time.

    Every rank makes it under the same name, and gives as often as the others do. The ranks meet at the first `all`.
    """

    def __init__(self, rank: int, size: int, store: Any, name: str, gone: Callable[[], bool] = lambda: False) -> None:
        """Set up; nothing is sent before the first `all`.

        Args:
            rank: of this process.
            size: how many there are.
            store: where ranks leave word of where they listen.
            name: the same on every rank, and of this channel alone.
            gone: whether a rank failed or died, so that to wait for it would be in vain.
        """
        self._rank, self._size, self._store, self._name = rank, size, store, name
        self._gone, self._looked = gone, time.monotonic()
        self._closed = threading.Event()
        self._change = threading.Lock()
        self._peers: dict[int, socket.socket] = {}
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="channel")

    def all(self, value: Any, tensors: Sequence[Tensor] = ()) -> list[Said]:
        """What each rank gives, in the order of the ranks, this one's own as it is.

        Args:
            value: what JSON can say.
            tensors: on the CPU; their numbers and shapes may differ between ranks.

        Raises:
            ChannelEndedError: a rank closed its side, or is gone.
        """
        try:
            if not self._peers:
                self._meet()
            sent = self._sender.submit(self._send, value, tensors)
            found: dict[int, Said] = {self._rank: (value, list(tensors))}
            for step in range(1, self._size):  # who sends to its right receives from its left: nobody waits in a circle
                peer = (self._rank - step) % self._size
                found[peer] = _received(self._peers[peer])
            sent.result()
        except (OSError, RuntimeError) as error:
            raise ChannelEndedError(f"{type(error).__name__}: {error}") from error
        return [found[rank] for rank in range(self._size)]

    def close(self) -> None:
        """End it: whoever waits in it, here or on another rank, goes on with an error. From any thread."""
        with self._change:
            self._closed.set()
            for peer in self._peers.values():
                _hang_up(peer)
        self._sender.shutdown(wait=False)

    def _send(self, value: Any, tensors: Sequence[Tensor]) -> None:
        shapes = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in tensors]
        head = json.dumps([value, shapes]).encode()
        parts = [memoryview(_bytes_of(tensor)) for tensor in tensors if tensor.numel()]
        for step in range(1, self._size):
            peer = self._peers[(self._rank + step) % self._size]
            peer.sendall(_LENGTH.pack(len(head)) + head)
            for part in parts:
                peer.sendall(part)

    def _meet(self) -> None:
        """Connect to the ranks before this one, and be found by those after it."""
        address = self._own_address()
        secret = secrets.token_hex(16)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        met: dict[int, socket.socket] = {}
        with socket.create_server((address, 0), family=family, backlog=self._size) as listening:
            said = f"{address} {listening.getsockname()[1]} {secret}"
            self._store.set(f"{self._name}/{self._rank}", said)
            try:
                for other in range(self._rank):
                    met[other] = self._found(other)
                while len(met) < self._size - 1:
                    other, peer = self._visitor(listening, secret)
                    met[other] = peer
            except BaseException:
                for peer in met.values():
                    _hang_up(peer)
                raise
        with self._change:
            self._peers = met
            if self._closed.is_set():
                for peer in met.values():
                    _hang_up(peer)

    def _found(self, other: int) -> socket.socket:
        host, port, secret = self._asked(f"{self._name}/{other}").split()
        peer = socket.create_connection((host, int(port)), timeout=_GREETING_SECONDS)
        peer.sendall(_GREETING.pack(secret.encode(), self._rank))
        return _ready(peer)

    def _visitor(self, listening: socket.socket, secret: str) -> tuple[int, socket.socket]:
        """The next one that knows the secret: of a port anybody may ask."""
        listening.settimeout(_LOOK_SECONDS)
        while True:
            self._go_on()
            try:
                peer, _ = listening.accept()
            except TimeoutError:
                continue
            peer.settimeout(_GREETING_SECONDS)
            greeting = bytearray(_GREETING.size)
            with suppress(OSError):
                _fill(peer, memoryview(greeting))
            known, other = _GREETING.unpack(greeting)
            if hmac.compare_digest(known, secret.encode()) and self._rank < other < self._size:
                return other, _ready(peer)
            peer.close()

    def _asked(self, key: str) -> str:
        """What stands in the store, as soon as it does."""
        while not self._store.check([key]):  # to wait in the store would keep this process's other threads from it
            self._go_on()
            time.sleep(_LOOK_SECONDS)
        text: str = self._store.get(key).decode()
        return text

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise ConnectionAbortedError("closed before the ranks had met")
        if (now := time.monotonic()) - self._looked > _GONE_EVERY_SECONDS:
            self._looked = now
            if self._gone():
                raise ConnectionAbortedError("a rank is gone that was to come")

    def _own_address(self) -> str:
        """The address of this machine at which the other ranks find it."""
        address = _towards(os.environ.get("MASTER_ADDR", "127.0.0.1"))
        hosts = [self._asked(f"process/{rank}").rsplit(" ", 1)[0] for rank in range(self._size)]
        if len(set(hosts)) > 1 and address.startswith("127."):  # rank 0's machine may know its own name as a loop
            elsewhere = next(rank for rank in range(self._size) if hosts[rank] != hosts[self._rank])
            address = _towards(self._asked(f"{self._name}/{elsewhere}").split()[0])
        return address


def _towards(host: str) -> str:
    """This machine's address on the way to another; nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as one:
        one.connect(address)
        name: str = one.getsockname()[0]
    return name


def _ready(peer: socket.socket) -> socket.socket:
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _hang_up(peer: socket.socket) -> None:
    with suppress(OSError):  # the other side may have done so
        peer.shutdown(socket.SHUT_RDWR)
    peer.close()


def _received(peer: socket.socket) -> Said:
    length = bytearray(_LENGTH.size)
    _fill(peer, memoryview(length))
    head = bytearray(_LENGTH.unpack(length)[0])
    _fill(peer, memoryview(head))
    value, shapes = json.loads(head)
    tensors = [torch.empty(shape, dtype=getattr(torch, dtype)) for dtype, shape in shapes]
    for tensor in tensors:
        if tensor.numel():
            _fill(peer, memoryview(_bytes_of(tensor)))
    return value, tensors


def _fill(peer: socket.socket, place: memoryview) -> None:
    done = 0
    while done < len(place):
        came = peer.recv_into(place[done:])
        if not came:
            raise ConnectionResetError("the other side closed")
        done += came


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
