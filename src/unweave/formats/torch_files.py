"""Files of `torch.save` that others wrote: read as data, whatever they hold, and written where a format asks for one.

Such a file is a zip archive: a pickle, and beside it the bytes of each tensor. A pickle is a program, and a hostile one
may do anything. So it is looked through before anything runs: it may name what rebuilds tensors, and the classes that
the caller knows; each of those becomes an `Inert`, an object with the same attributes and nothing that could run. Then
`torch.load(weights_only=True)` reads it, which has the same rule. Sizes are checked where they are claimed: records
must lie in the file as they are, and a tensor is no larger than its bytes.
"""

import io
import pickletools
import threading
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unweave.core.errors import InputError, StoreError

_LARGEST_PICKLE = 64 << 20
_TENSORS = {
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
    *(
        f"torch.{kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    ),
    *(
        f"torch.{kind}"
        for kind in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    ),
}
_NAMED = {"GLOBAL"}
_NAMELESS = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"}
_Archive = io.BufferedReader | io.BytesIO
_BY_PLACE = threading.Lock()  # torch keeps what it trusts in one place for the whole process


class Inert:
    """An object of a class that was not run: its class's dotted name, what it was made of, and its attributes."""

    name = ""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute that was saved with it."""
        return self.__dict__.get(attribute, default)


def load_torch(path: Path, *, known: Collection[str] = (), skip: int = 0) -> Any:
    """What a file of `torch.save` holds, without running any of it.

    Args:
        path: the file. Its tensors stay mapped into memory until they are copied.
        known: dotted names of foreign classes and functions that may stand in it; they come back as `Inert`.
        skip: bytes that lie before the archive.

    Raises:
        StoreError: missing, cut short, not of `torch.save`, or larger in memory than on disk.
        InputError: it holds other classes; the message names them.
    """
    if not path.is_file():
        raise StoreError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a file")
    try:
        with path.open("rb") as opened:
            opened.seek(skip)
            archive: _Archive = io.BytesIO(opened.read()) if skip else opened
            program = _program(archive, path)
            _refuse_code(program, path, set(known))
            archive.seek(0)
            loaded = _load(archive if skip else path, {name: _inert(name) for name in known})
    except InputError:
        raise
    except Exception as error:  # a damaged pickle or archive makes its reader fail in any way
        said = str(error).splitlines()
        raise StoreError(
            f"{path} is no whole file of torch.save: {said[0] if said else type(error).__name__}"
        ) from None
    _check_tensors(loaded, path)
    return loaded


def peek_torch(path: Path, *, known: Collection[str] = (), skip: int = 0) -> Any:
    """The same to recognise a format by; None where the file is anything else. No tensor's bytes are read."""
    try:
        return load_torch(path, known=known, skip=skip)
    except InputError:
        return None


def state_of(loaded: object) -> dict[str, Any]:
    """The entries of a state dict that have names; empty where it is none."""
    return {key: value for key, value in loaded.items() if isinstance(key, str)} if isinstance(loaded, Mapping) else {}


def save_torch(contents: Mapping[str, Any], path: Path, *, before: bytes = b"") -> None:
    """Write a mapping of tensors and plain values for a library whose format is a file of `torch.save`.

    Args:
        contents: tensors, numbers, strings, and mappings of those.
        path: the file.
        before: bytes that the format wants before the archive.
    """
    with path.open("wb") as out:
        out.write(before)
        torch.save(_plain(contents), out)


def _plain(value: Any) -> Any:
    """A copy that holds no view of a larger tensor: `torch.save` would write all of that."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else value


def _program(archive: _Archive, path: Path) -> bytes:
    """The pickle in an archive whose records lie in it as they are."""
    start = archive.read(4)
    size = archive.seek(0, io.SEEK_END)
    archive.seek(0)
    if start[:2] != b"PK":
        what = (
            "is a bare pickle, or written by torch before 1.6" if start[:1] == b"\x80" else "is no file of torch.save"
        )
        raise StoreError(f"{path} {what}; Unweave reads what torch.save of today writes")
    with zipfile.ZipFile(archive) as members:
        listed = members.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in listed):
            raise StoreError(f"{path} is a compressed archive; torch.save writes none")
        if sum(member.file_size for member in listed) > size:
            raise StoreError(f"{path} claims more bytes than it has")
        programs = [member for member in listed if member.filename.rpartition("/")[2] == "data.pkl"]
        if len(programs) != 1 or programs[0].file_size > _LARGEST_PICKLE:
            raise StoreError(f"{path} is no file of torch.save: it should hold one data.pkl of at most 64 MiB")
        return members.read(programs[0])


def _refuse_code(program: bytes, path: Path, known: set[str]) -> None:
    asked = set(_names(program))
    foreign = sorted(asked - _TENSORS - known)
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise InputError(
            f"{path} is a pickle that holds {shown}; it could run any code and is not opened. Save the tensors alone, "
            "with the library that wrote it: safetensors.torch.save_file(module.state_dict(), path), or "
            "torch.save(module.state_dict(), path)"
        )


def _names(program: bytes) -> Iterator[str]:
    """Dotted names of all classes and functions that a pickle asks for."""
    for code, argument, _ in pickletools.genops(program):
        if code.name in _NAMED:
            module, _, name = str(argument).partition(" ")
            yield f"builtins.{name}" if module == "__builtin__" else f"{module}.{name}"
        elif code.name in _NAMELESS:
            yield f"something by {code.name}"


def _inert(name: str) -> type[Inert]:
    return type(name.rpartition(".")[2], (Inert,), {"name": name})


def _load(place: _Archive | Path, stubs: Mapping[str, type[Inert]]) -> Any:
    trusted = [(stub, name) for name, stub in stubs.items()]
    with _BY_PLACE, torch.serialization.safe_globals(trusted):  # type: ignore[arg-type]
        if isinstance(place, Path):
            return torch.load(str(place), map_location="cpu", weights_only=True, mmap=True)
        return torch.load(place, map_location="cpu", weights_only=True)


def _check_tensors(loaded: Any, path: Path) -> None:
    """Refuse tensors that are larger than the bytes behind them, wherever they stand."""
    seen: set[int] = set()
    left = [loaded]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise StoreError(f"{path} holds a tensor of shape {tuple(value.shape)} with fewer bytes than that")
        elif isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            left.extend(value)
        elif isinstance(value, Inert):
            left.extend(value.__dict__.values())
