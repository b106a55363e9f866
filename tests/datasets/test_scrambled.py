"""Images and their scrambled copies."""

import numpy as np
import pytest
import torch

from unweave.core.errors import InputError
from unweave.datasets.base import MemoryImages
from unweave.datasets.digits import Digits
from unweave.datasets.scrambled import Scrambled, ScrambledImages, block_orders


def _images(n: int = 6, side: int = 8, channels: int = 2) -> MemoryImages:
    pixels = torch.arange(n * channels * side * side, dtype=torch.int64).remainder(251).to(torch.uint8)
    return MemoryImages(pixels.view(n, channels, side, side), torch.arange(n) % 3, ["a", "b", "c"])


def _blocks(image: torch.Tensor, side: int) -> list[bytes]:
    down, across = image.shape[1] // side, image.shape[2] // side
    cut = [image[:, i * side : (i + 1) * side, j * side : (j + 1) * side] for i in range(down) for j in range(across)]
    return [block.contiguous().numpy().tobytes() for block in cut]


def test_the_first_half_is_as_it_was_and_the_second_one_more_class() -> None:
    images = _images()
    twins = ScrambledImages(images, 4, seed=1)
    assert len(twins) == 12
    assert twins.class_names == ["a", "b", "c", "scrambled"]
    torch.testing.assert_close(twins.labels, torch.cat([images.labels, torch.full((6,), 3)]))
    torch.testing.assert_close(twins.pixels(torch.arange(6)), images.pixels(torch.arange(6)))


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_a_copy_has_the_same_blocks_in_another_order(block: int) -> None:
    images = _images()
    copies = ScrambledImages(images, block, seed=1).pixels(torch.arange(6, 12))
    for image, copy in zip(images.pixels(torch.arange(6)), copies, strict=True):
        assert sorted(_blocks(image, block)) == sorted(_blocks(copy, block))
        assert block < 8 or torch.equal(image, copy)  # a single block stays where it is
    assert block == 8 or not torch.equal(copies, images.pixels(torch.arange(6)))


def test_a_copy_does_not_depend_on_what_is_read_with_it() -> None:
    twins = ScrambledImages(_images(), 2, seed=1)
    together = twins.pixels(torch.tensor([9, 0, 7, 9]))
    torch.testing.assert_close(together[0], twins.pixels(torch.tensor([9]))[0])
    torch.testing.assert_close(together[0], together[3])
    torch.testing.assert_close(together[2], twins.pixels(torch.tensor([7]))[0])


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_single_copies_of_grey_images_are_read_like_many(block: int) -> None:
    twins = Scrambled(of=Digits(), block=block).load("test")
    index = torch.arange(len(twins) - 3, len(twins))
    torch.testing.assert_close(torch.cat([twins.pixels(one) for one in index.split(1)]), twins.pixels(index))


def test_orders_change_with_epoch_and_seed_and_come_again() -> None:
    images, index = _images(), torch.arange(6, 12)
    twins = ScrambledImages(images, 2, seed=1)
    first, second = twins.at_epoch(0).pixels(index), twins.at_epoch(1).pixels(index)
    torch.testing.assert_close(first, twins.pixels(index))
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, twins.at_epoch(3).at_epoch(1).pixels(index))
    assert not torch.equal(first, ScrambledImages(images, 2, seed=2).pixels(index))
    assert twins.at_epoch(1).id == twins.id != ScrambledImages(images, 2, seed=2).id


def test_reading_leaves_the_images_as_they_were() -> None:
    images = _images()
    before = images.pixels(torch.arange(6)).clone()
    ScrambledImages(images, 2, seed=1).pixels(torch.arange(12))
    torch.testing.assert_close(images.pixels(torch.arange(6)), before)


def test_every_order_is_as_likely_as_another() -> None:
    orders = block_orders(np.arange(60_000), 3, seed=5)
    _, counts = np.unique(orders @ [9, 3, 1], return_counts=True)
    assert len(counts) == 6
    expected = 10_000
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square with 5 degrees of freedom, p = 0.001


def test_splits_are_scrambled_independently() -> None:
    config = Scrambled(of=Digits(), block=2)
    train, test = config.load("train"), config.load("test")
    assert train.id != test.id
    assert train.class_names[-1] == "scrambled"
    assert len(train) == 2 * len(Digits().load("train"))


def test_a_block_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="8 x 8 pixels cannot be cut into blocks of 3 x 3"):
        Scrambled(of=Digits(), block=3).load("test")
