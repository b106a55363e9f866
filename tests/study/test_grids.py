"""Grids: where each picture stands, and that a file tells nothing beyond it."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unweave.core.errors import InputError
from unweave.study.grids import arranged, grids, padded

BLACK = np.zeros((16, 1, 28, 28), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, BLACK.shape, np.uint8)


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each chunk, whose checksums must be right."""
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind_and_body = png[at + 4 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind_and_body)
        found.append((kind_and_body[:4], kind_and_body[4:]))
        at += 12 + length
    return found


def test_pictures_stand_row_by_row_and_enlarged_by_a_whole_factor() -> None:
    canvas = arranged(NOISE)
    assert canvas.shape == (4 * 112 + 5 * 4, 4 * 112 + 5 * 4, 1)
    for place in range(16):
        top, left = (4 + (112 + 4) * part for part in divmod(place, 4))
        picture = canvas[top : top + 112, left : left + 112, 0]
        assert (picture[::4, ::4] == NOISE[place, 0]).all()
        assert (picture[3::4, 3::4] == NOISE[place, 0]).all()
    assert (canvas[:4] == 128).all()
    assert (canvas[:, 116:120] == 128).all()


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 2, 2), (5, 2, 3), (9, 3, 3), (10, 3, 4)])
def test_the_smallest_square_that_holds_them(count: int, rows: int, columns: int) -> None:
    canvas = arranged(np.zeros((count, 3, 96, 60), np.uint8))
    assert canvas.shape == (rows * 100 + 4, columns * 64 + 4, 3)


def test_black_and_noise_are_equal_in_bytes_and_pixels() -> None:
    made = grids({"black": BLACK, "noise": NOISE})
    assert len(made["black"]) == len(made["noise"])
    assert len(zlib.compress(made["black"])) > 0.97 * len(zlib.compress(made["noise"])), "nor when compressed"
    for name, pictures in (("black", BLACK), ("noise", NOISE)):
        image = Image.open(io.BytesIO(made[name]))
        image.load()
        assert (np.asarray(image) == arranged(pictures)[:, :, 0]).all()
        assert not image.info, "no metadata"
        kinds = [kind for kind, _ in chunks(made[name])]
        assert kinds[0] == b"IHDR"
        assert kinds[-2:] == [b"upAd", b"IEND"]
        assert set(kinds[1:-2]) == {b"IDAT"}


def test_padding_fills_exactly_and_differs_between_grids() -> None:
    made = grids({"a": BLACK, "b": BLACK + 1})
    fillings = [dict(chunks(png))[b"upAd"] for png in made.values()]
    png = made["a"]
    assert len(padded(png, len(png) + 12)) == len(png) + 12
    assert len(padded(png, len(png) + 99)) == len(png) + 99
    assert max(map(len, fillings)) < 100, "equal pictures but for a shade need little"


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))))
def test_any_pictures_come_back(pictures: np.ndarray) -> None:
    image = Image.open(io.BytesIO(grids({"x": pictures})["x"]))
    shown = np.asarray(image).reshape(image.height, image.width, -1)
    assert (shown == arranged(pictures)).all()


def test_pictures_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="atlases of the same images"):
        grids({"a": BLACK, "b": BLACK[:, :, :20]})
