"""The seal: the key of a study, scrambled so that no eye falls on it, and bound by a commitment in the plan.

`key.sealed` is a line that names the format, 16 bytes of nonce, and the scrambled bytes: a salt of 32 bytes, then the
key as JSON, both xored with the stream SHAKE-256(nonce). The plan holds SHA-256(salt + key). It keeps honest people
from reading the key by accident and shows whether it was changed; whoever runs code in the folder can open it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError

_FORMAT = b"unweave sealed key 1\n"
_NONCE, _SALT = 16, 32


@dataclass(frozen=True, kw_only=True)
class KeyEntry:
    """What one item is.

    Attributes:
        item: the grid's name.
        condition: where its latent comes from.
        latent: its index there.
        rate: share of the rows on which it fires.
    """

    item: str
    condition: str
    latent: int
    rate: float


def seal(entries: Sequence[KeyEntry], secret: bytes) -> tuple[bytes, str]:
    """The sealed key and its commitment (64 hexadecimal digits).

    Args:
        entries: the key.
        secret: what nonce and salt are derived from; the same secret gives the same bytes.
    """
    drawn = hashlib.shake_256(b"nonce and salt" + secret).digest(_NONCE + _SALT)
    nonce, salt = drawn[:_NONCE], drawn[_NONCE:]
    plain = salt + json.dumps(to_json(list(entries)), separators=(",", ":")).encode()
    return _FORMAT + nonce + _scrambled(plain, nonce), hashlib.sha256(plain).hexdigest()


def opened(sealed: bytes, commitment: str) -> dict[str, KeyEntry]:
    """The key by item.

    Raises:
        StoreError: it is no sealed key, or not the one that the plan committed to.
    """
    if not sealed.startswith(_FORMAT) or len(sealed) < len(_FORMAT) + _NONCE + _SALT:
        raise StoreError("the sealed key is damaged or of another version: it does not begin as one does")
    body = sealed[len(_FORMAT) :]
    plain = _scrambled(body[_NONCE:], body[:_NONCE])
    if hashlib.sha256(plain).hexdigest() != commitment:
        raise StoreError(
            "the sealed key is not the one that the plan committed to: key or plan was changed after the study was "
            "made, and its ratings cannot be scored"
        )
    try:
        entries = [from_json(KeyEntry, entry, where="key") for entry in json.loads(plain[_SALT:])]
    except (InputError, ValueError) as error:
        raise StoreError(f"the sealed key cannot be read: {error}") from None
    return {entry.item: entry for entry in entries}


def _scrambled(data: bytes, nonce: bytes) -> bytes:
    """Xored with the keystream; twice gives the data back."""
    stream = hashlib.shake_256(nonce).digest(len(data))
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")
