"""Is what lies at a URL what was written? Every store below it, read through once and kept nowhere."""

import zlib
from collections.abc import Iterable, Iterator

from unweave.core.errors import InputError, StoreError
from unweave.core.progress import Bar, progress
from unweave.store.artifact import MANIFEST, FileEntry, Manifest
from unweave.store.drafts import UNFINISHED
from unweave.store.remote import RemoteFolder, all_at_once
from unweave.store.verified import Verified

_PIECE = 8 << 20
_AT_ONCE = 8  # requests; as many pieces are in memory


def verify_remote(root: RemoteFolder) -> Verified:
    """Compare every object that a manifest below a URL names with its size and checksum.

    Raises:
        InputError: there is no manifest.
        StoreError: the place cannot be reached.
    """
    sizes = root.sizes()
    found = Verified(left=list(_left(root.url, sizes)))
    stores: list[tuple[RemoteFolder, dict[str, int], Manifest]] = []
    for path in sorted(name for name in sizes if f"/{name}".endswith(f"/{MANIFEST}")):
        within = path.removesuffix(MANIFEST)
        folder = RemoteFolder(f"{root.url}/{within}".rstrip("/"))
        own = {name.removeprefix(within): size for name, size in sizes.items() if name.startswith(within)}
        found.artifacts, found.files, found.bytes = found.artifacts + 1, found.files + 1, found.bytes + sizes[path]
        try:
            manifest = folder.manifest_in(own)
        except StoreError as error:
            found.damaged.append(str(error))
        else:
            assert manifest is not None
            stores.append((folder, own, manifest))
    if not found.artifacts and not found.left:
        raise InputError(f"there is no store of Unweave's at {root.url}: no {MANIFEST}")
    total = sum(entry.size for _, _, manifest in stores for entry in manifest.files.values())
    with progress("Verifying", total=total, unit="bytes") as bar:
        for folder, own, manifest in stores:
            for name, entry in manifest.files.items():
                _compare(folder, name, entry, own.get(name), found, bar)
    return found


def _left(url: str, names: Iterable[str]) -> Iterator[str]:
    """Where captures have noted what they have finished, and have not ended."""
    mark = f"/{UNFINISHED}/"
    yield from sorted({url + f"/{name}".partition(mark)[0] for name in names if mark in f"/{name}"})


def _compare(folder: RemoteFolder, name: str, entry: FileEntry, size: int | None, found: Verified, bar: Bar) -> None:
    where = f"{folder.url}/{name}"
    found.files, found.bytes = found.files + 1, found.bytes + entry.size
    try:
        if size is None:
            found.damaged.append(f"{where} is missing")
        elif size != entry.size:
            found.damaged.append(f"{where} has {size:,} bytes, {entry.size:,} were written")
        elif _crc32(folder, name, size, bar) != entry.crc32:
            found.damaged.append(f"{where} was changed or damaged: its checksum differs")
    except StoreError as error:
        found.damaged.append(str(error))


def _crc32(folder: RemoteFolder, name: str, size: int, bar: Bar) -> int:
    """CRC-32 of an object, asked for in pieces."""
    checksum = 0
    pieces = [(name, start, min(start + _PIECE, size)) for start in range(0, size, _PIECE)]
    for first in range(0, len(pieces), _AT_ONCE):
        for read in all_at_once([(folder.read, piece) for piece in pieces[first : first + _AT_ONCE]]):
            checksum = zlib.crc32(read, checksum)
            bar.advance(len(read))
    return checksum
