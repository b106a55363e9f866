"""Pictures of examples, from every form that images come in."""

import numpy as np
import pytest
import torch

from unweave.analyze import Analysis, analyze
from unweave.analyze.thumbnails import ImageReader, Thumbnails
from unweave.core.errors import InputError
from unweave.datasets.base import ImageBatch, MemoryImages
from unweave.datasets.streamed import StreamedImages

BYTES = torch.arange(5 * 3 * 4 * 6, dtype=torch.int64).remainder(256).to(torch.uint8).view(5, 3, 4, 6)


def of(images, *examples: int) -> np.ndarray:
    return ImageReader(images).thumbnails(np.array(examples, np.int64)).of(np.array(examples, np.int64))


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES.float() / 255,
        BYTES.double() / 255,
        MemoryImages(BYTES, torch.zeros(5, dtype=torch.int64), ["a"]),
    ],
    ids=["bytes", "floats", "doubles", "data set"],
)
def test_small_images_are_shown_as_they_are(images):
    assert np.array_equal(of(images, 3, 0, 3), BYTES[[3, 0, 3]].numpy())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bool])
def test_grey_images_without_a_channel(dtype):
    images = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 0]]]).to(dtype)
    white = 1 if dtype == torch.uint8 else 255
    assert of(images, 1, 0).tolist() == [[[[white, white], [0, 0]]], [[[0, white], [white, 0]]]]


def test_normalised_images_are_stretched_over_all_of_them():
    images = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(4, 1, 1, 1)
    assert of(images, 0, 1, 2, 3).ravel().tolist() == [0, 64, 128, 255]
    assert of(images, 1).ravel().tolist() == [64]  # the same picture whichever are shown
    assert of(torch.full((2, 1, 1, 1), 7.0), 0).ravel().tolist() == [0]


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((3, 192, 96), (96, 48)),
        ((1, 97, 97), (96, 96)),
        ((3, 96, 96), (96, 96)),
        ((1, 20, 500), (3, 96)),
        ((1, 500, 1), (96, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_large_images_become_small(shape, small, kind):
    images = torch.full((2, *shape), 100, dtype=torch.uint8)
    images[1] = 255
    images = images if kind == "bytes" else images.float() / 255
    found = of(images, 0, 1)
    assert found.shape == (2, shape[0], *small)
    assert (found[0] == 100).all()
    assert (found[1] == 255).all()


def test_a_large_image_keeps_its_place_in_the_picture():
    image = torch.zeros(1, 1, 192, 192, dtype=torch.uint8)
    image[:, :, :96, 96:] = 255
    found = of(image, 0)[0, 0]
    assert (found[:46, 50:] == 255).all()
    assert (found[50:] == 0).all()
    assert (found[:, :46] == 0).all()


def test_many_examples_are_read_in_parts():
    images = torch.arange(700).remainder(256).to(torch.uint8).view(700, 1, 1, 1)
    chosen = np.array([699, 0, 256, 255, 511, 512, *range(100, 620)])
    assert np.array_equal(of(images, *chosen)[:, 0, 0, 0], chosen % 256)


def test_pictures_are_stored_once_and_read_back(tmp_path):
    found = ImageReader(BYTES).thumbnails(np.array([4, 1, 4, 1]))
    assert found.example.tolist() == [1, 4]
    found.save(tmp_path / "t.safetensors")
    again = Thumbnails.load(tmp_path / "t.safetensors")
    assert np.array_equal(again.of(np.array([4, 1])), BYTES[[4, 1]].numpy())


def test_no_examples_have_no_pictures():
    for images in (BYTES, torch.zeros(3, 1, 200, 200)):
        found = ImageReader(images).thumbnails(np.zeros(0, np.int64))
        assert len(found.pixels) == len(found.example) == 0


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (4, 4, 3, 3), (4, 9), (4, 3, 3, 3, 1), (0, 3, 3), (4, 0, 3)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(InputError, match="images"):
        ImageReader(torch.zeros(shape))


def test_the_fingerprint_follows_the_pixels():
    assert ImageReader(BYTES).id == ImageReader(BYTES.clone()).id != ImageReader(BYTES.flip(0)).id


def test_fewer_images_than_examples_are_refused(rows, store_of, dictionary_of, tmp_path):
    x, label = rows
    x = x[:20]
    store, sae = store_of(x, label[:20]), dictionary_of(x)
    images = torch.zeros(5, 1, 2, 2)
    with pytest.raises(InputError, match="only 5 images"):
        analyze(sae, store, images=images, analysis=Analysis(permutations=9), out=tmp_path / "atlas")
    assert not list(tmp_path.glob("atlas*"))


def test_the_strongest_examples_are_shown_strongest_first(rows, store_of, dictionary_of):
    x, label = rows
    sae = dictionary_of(x)
    pixels = torch.arange(90, dtype=torch.uint8).view(90, 1, 1, 1)
    atlas = analyze(sae, store_of(x, label), images=pixels, analysis=Analysis(permutations=9, top=5))
    dense = sae.encode(x).numpy()
    relative = dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-30)
    for latent in range(12):
        fires = min(5, int((dense[:, latent] > 0).sum()))
        expected = np.argsort(-dense[:, latent], kind="stable")[:fires]
        assert atlas.top_images(latent).ravel().tolist() == expected.tolist()
        shown = atlas.top_images(latent, "relative").ravel()
        assert np.allclose(relative[shown, latent], np.sort(relative[:, latent])[::-1][:fires])


def test_the_images_of_another_split_are_refused(rows, store_of, dictionary_of):
    x, label = rows
    other = MemoryImages(torch.zeros(120, 1, 2, 2, dtype=torch.uint8), torch.zeros(120, dtype=torch.int64), ["a"])
    with pytest.raises(InputError, match="120 images, but 90 examples were captured"):
        analyze(dictionary_of(x), store_of(x, label), images=other)


class Stream(StreamedImages):
    """Twenty shades in order, of which one cannot be read; counts how many batches were asked for."""

    def __init__(self, n=20):
        self.shape, self.class_names, self.id, self.n, self.given = (1, 4, 4), [], "shades", n, 0

    def batches(self, batch_size):
        for index in torch.arange(self.n).split(6):
            self.given += 1
            kept = index[index != 7]
            yield ImageBatch((kept / 255).view(-1, 1, 1, 1).expand(-1, 1, 4, 4), kept, kept)


def test_pictures_of_a_stream_come_in_one_pass_that_ends_with_the_last():
    stream = Stream()
    found = ImageReader(stream).thumbnails(np.array([9, 2, 8, 2, 13]))
    assert found.example.tolist() == [2, 8, 9, 13]
    assert found.pixels[:, 0, 0, 0].tolist() == [2, 8, 9, 13]
    assert stream.given == 3
    with pytest.raises(InputError, match="example 7 was captured, but the stream does not give it again"):
        ImageReader(Stream()).thumbnails(np.array([2, 7]))
    with pytest.raises(InputError, match="example 30 was captured"):
        ImageReader(Stream()).thumbnails(np.array([2, 30]))
