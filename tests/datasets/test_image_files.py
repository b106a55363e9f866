"""One image file of any format and mode as a square of bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from unweave.datasets import image_files
from unweave.datasets.image_files import BrokenImageError, check_header, image_suffixes, read_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(image, path, **options):
    image.save(path, **options)
    return path


def plain(path, **options):
    return read_image(path, 4, options.get("channels", 3))


def halves(left, right, size=(8, 8)):
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


def test_an_image_of_the_wanted_size_is_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(read_image(path, 16, 3), pixels.transpose(2, 0, 1))


def test_a_jpeg_of_the_wanted_size_is_as_pillow_decodes_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.jpg", quality=95)
    assert np.array_equal(read_image(path, 32, 3), np.asarray(Image.open(path)).transpose(2, 0, 1))


@pytest.mark.parametrize("wide", [True, False])
def test_the_centre_of_the_longer_side_is_kept(tmp_path, wide):
    image = Image.new("RGB", (30, 10), RED)
    image.paste(GREEN, (10, 0, 20, 10))
    path = save(image if wide else image.transpose(Image.Transpose.ROTATE_90), tmp_path / "a.png")
    got = read_image(path, 5, 3)
    # The outermost pixels take a little from beyond the crop, as they do when the whole is resized before it is cut.
    assert np.array_equal(got[:, 1:-1, 1:-1], np.broadcast_to(np.array(GREEN)[:, None, None], (3, 3, 3)))
    assert got[0].max() < 20
    assert got[1].min() > 235


def test_it_is_the_shorter_side_resized_then_the_centre_cropped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    whole = Image.fromarray(pixels).resize((20, 10), Image.Resampling.BICUBIC).crop((5, 0, 15, 10))
    assert np.array_equal(read_image(path, 10, 3), np.asarray(whole).transpose(2, 0, 1))


def test_sides_whose_ratio_is_no_binary_fraction_are_read_too(tmp_path):
    for width, side in ((174, 168), (221, 7), (133, 96), (107, 224)):
        path = save(Image.new("RGB", (width, width + 30)), tmp_path / f"{width}.png")
        assert read_image(path, side, 3).shape == (3, side, side)


def test_reduction_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    path = save(Image.fromarray(board), tmp_path / "a.png")
    small = read_image(path, 8, 1)[0, 1:-1, 1:-1]
    assert np.abs(small.astype(int) - 127.5).max() <= 2


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path):
    x = np.linspace(0, 1, 400)
    smooth = np.stack([np.tile(x, (400, 1)), np.tile(x[:, None], (1, 400)), np.full((400, 400), 0.5)], axis=2)
    image = Image.fromarray((smooth * 255).astype(np.uint8))
    exact = read_image(save(image, tmp_path / "a.png"), 20, 3).astype(int)
    reduced = read_image(save(image, tmp_path / "a.jpg", quality=95), 20, 3).astype(int)
    assert np.abs(exact - reduced).max() <= 4


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    upright = halves(RED, BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(upright.transpose(turned), tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(path, 8, 3), np.asarray(upright).transpose(2, 0, 1))


def test_palettes_show_their_colours(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    assert plain(save(image, tmp_path / "a.png"))[:, 0, 0].tolist() == list(GREEN)
    assert plain(save(image, tmp_path / "a.gif"))[:, 0, 0].tolist() == list(GREEN)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_parts_show_white(tmp_path, channels):
    rgba = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert plain(save(rgba, tmp_path / "rgba.png"), channels=channels).min() == 255
    assert plain(save(Image.new("LA", (4, 4), (0, 0)), tmp_path / "la.png"), channels=channels).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0])
    assert plain(save(palette, tmp_path / "p.png", transparency=0), channels=channels).min() == 255
    keyed = Image.new("L", (4, 4), 7)
    assert plain(save(keyed, tmp_path / "l.png", transparency=7), channels=channels).min() == 255


def test_half_transparent_black_is_grey(tmp_path):
    path = save(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), tmp_path / "a.png")
    assert plain(path)[0, 0, 0] == 127


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32768, 65535]] * 4, dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert plain(path, channels=1)[0, 0].tolist() == [0, 1, 128, 255]
    assert plain(path)[:, 0, 2].tolist() == [128, 128, 128]


def test_cmyk_and_black_and_white(tmp_path):
    cyan = save(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), tmp_path / "a.tif")
    assert plain(cyan)[:, 0, 0].tolist() == [0, 255, 255]
    assert plain(cyan, channels=1)[0, 0, 0] == round(0.587 * 255 + 0.114 * 255)
    bits = save(Image.new("1", (8, 8), 1), tmp_path / "b.png")
    assert plain(bits, channels=1).min() == plain(bits).min() == 255


def test_grey_is_the_luma_of_the_colours(tmp_path):
    path = save(Image.new("RGB", (4, 4), GREEN), tmp_path / "a.png")
    grey = plain(path, channels=1)
    assert grey.shape == (1, 4, 4)
    assert grey[0, 0, 0] == round(0.587 * 255)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white_are_refused(tmp_path, mode):
    path = save(Image.new(mode, (4, 4), 100_000), tmp_path / "a.tif")
    with pytest.raises(BrokenImageError, match="no agreed white"):
        plain(path)


def photo():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "no image in a format"),
        ("text.jpg", b"hello", "no image in a format"),
        ("cut.jpg", photo()[:2000], "truncated"),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no image in a format"),
    ],
)
def test_broken_files_are_named_with_the_reason(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BrokenImageError, match=reason) as caught:
        plain(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_whatever_is_cut_or_flipped_is_read_or_named(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a"
    for suffix in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "TGA", "PPM"):
        buffer = io.BytesIO()
        halves(RED, BLUE).save(buffer, suffix)
        for _ in range(20):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            path.write_bytes(data[: rng.integers(len(data) + 1)])
            try:
                assert plain(path).shape == (3, 4, 4)
            except BrokenImageError as error:
                assert str(path) in str(error)  # noqa: PT017 - both ways are right


def test_a_missing_file_is_named(tmp_path):
    for read in (check_header, plain):
        with pytest.raises(BrokenImageError, match=r"gone\.png: No such file"):
            read(tmp_path / "gone.png")


def test_the_header_is_enough_for_a_header_check(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(photo()[:2000])
    check_header(tmp_path / "cut.jpg")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    with pytest.raises(BrokenImageError, match=r"text\.jpg"):
        check_header(tmp_path / "text.jpg")


@pytest.mark.parametrize("read", [check_header, plain])
def test_decompression_bombs_are_refused_by_their_header(tmp_path, monkeypatch, read):
    path = save(Image.new("L", (100, 101)), tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 10_000)
    with pytest.raises(BrokenImageError, match="100 x 101 pixels are more than the 10,000 allowed"):
        read(path)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 10_100)
    read(path)


def test_suffixes_are_those_of_formats_that_pillow_decodes_itself():
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".bmp"} <= suffixes
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ""} & suffixes
