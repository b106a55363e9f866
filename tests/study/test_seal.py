"""The seal: no eye falls on the key, and a changed one is found out."""

import pytest

from unweave.core.errors import StoreError
from unweave.study.seal import KeyEntry, opened, seal

KEY = [KeyEntry(item=f"item-{n}", condition="neurons" if n % 2 else "sae", latent=n, rate=n / 100) for n in range(9)]


def test_what_was_sealed_is_what_is_opened() -> None:
    sealed, commitment = seal(KEY, b"secret")
    assert list(opened(sealed, commitment).values()) == KEY
    assert len(commitment) == 64
    assert seal(KEY, b"secret") == (sealed, commitment)


def test_nothing_can_be_read_in_the_sealed_bytes() -> None:
    sealed, _ = seal(KEY, b"secret")
    for word in (b"sae", b"neurons", b"item", b"latent", b"rate"):
        assert word not in sealed


def test_equal_keys_of_other_studies_look_different() -> None:
    (one, first), (other, second) = seal(KEY, b"a"), seal(KEY, b"b")
    assert first != second
    assert sum(a == b for a, b in zip(one[40:], other[40:], strict=True)) < 0.05 * len(one)


@pytest.mark.parametrize("place", [25, 40, 80, -1])
def test_a_changed_key_is_found_out(place: int) -> None:
    sealed, commitment = seal(KEY, b"secret")
    changed = bytearray(sealed)
    changed[place] ^= 1
    with pytest.raises(StoreError, match="not the one that the plan committed to"):
        opened(bytes(changed), commitment)


def test_another_commitment_is_found_out() -> None:
    sealed, _ = seal(KEY, b"secret")
    _, other = seal(KEY[:-1], b"secret")
    with pytest.raises(StoreError, match="cannot be scored"):
        opened(sealed, other)


@pytest.mark.parametrize("damaged", [b"", b"unweave sealed key 1\n", b"unweave sealed key 2\n" + bytes(200)])
def test_what_is_no_sealed_key_is_named(damaged: bytes) -> None:
    with pytest.raises(StoreError, match="damaged or of another version"):
        opened(damaged, "0" * 64)
