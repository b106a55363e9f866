"""Fingerprints of data: tensors, modules and files."""

import contextlib
import hashlib
import inspect
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unweave.core.config import fingerprint


def hash_tensor(*tensors: Tensor) -> str:
    """16 hexadecimal digits of dtypes, shapes and bytes, wherever the tensors lie."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor], *words: str) -> str:
    """16 hexadecimal digits of named tensors and of some words."""
    return fingerprint(*words, {name: hash_tensor(tensor) for name, tensor in tensors.items()})


def hash_module(module: nn.Module) -> str:
    """16 hexadecimal digits of a module's structure, of every parameter and buffer, and of the user's own classes.

    The source of a class outside torch and Unweave counts, where it can be found, so that a changed `forward` is seen.
    """
    digest = hashlib.blake2b(str(module).encode(), digest_size=8)
    for cls in sorted({type(part) for part in module.modules()}, key=lambda cls: cls.__qualname__):
        if cls.__module__.split(".")[0] not in {"torch", "unweave"}:
            with contextlib.suppress(OSError, TypeError):
                digest.update(inspect.getsource(cls).encode())
    values = {**module.state_dict(), **dict(module.named_buffers())}  # the second has those that are not saved
    for name, value in values.items():
        digest.update(name.encode())
        digest.update((hash_tensor(value) if isinstance(value, Tensor) else repr(value)).encode())
    return digest.hexdigest()


def crc32_of_file(path: Path) -> int:
    """CRC-32 of a file's bytes; catches flipped bits, not malice."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
