"""Rows that are computed while they are read."""

import threading

import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.capture.live import LiveRows
from unweave.core.errors import InputError
from unweave.datasets.digits import Digits
from unweave.datasets.scrambled import Scrambled
from unweave.dictionaries.topk import TopK
from unweave.store.rows import RowSource
from unweave.train import Training, train


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))


def test_it_is_a_source_of_rows_like_any_other(model: nn.Module) -> None:
    images = Digits().load("test")
    live, stored = LiveRows(model, images, at="1"), capture(model, images, at="1")
    assert isinstance(live, RowSource)
    assert (live.n, live.d_in, live.hook_name) == (stored.n, 6, "1")
    torch.testing.assert_close(torch.cat(list(live.blocks(100))), stored.rows(0, stored.n))
    torch.testing.assert_close(live.moments().mean, stored.moments().mean)
    assert live.moments().variance == pytest.approx(stored.moments().variance)


def test_an_epoch_can_be_taken_up_at_any_batch(model: nn.Module) -> None:
    live = LiveRows(model, Scrambled(of=Digits(), block=2).load("test"), at="1")
    whole = list(live.batches(64, seed=3, epoch=2))
    rest = list(live.batches(64, seed=3, epoch=2, skip=4))
    assert sum(map(len, whole)) == live.n
    torch.testing.assert_close(torch.cat(rest), torch.cat(whole[4:]))


def test_each_epoch_sees_its_own_images(model: nn.Module) -> None:
    images = Scrambled(of=Digits(), block=2).load("test")
    live, half = LiveRows(model, images, at="1"), len(images) // 2
    first, second = (torch.cat(list(live.batches(50, seed=0, epoch=e, shuffle=False))) for e in (0, 1))
    torch.testing.assert_close(first[:half], second[:half])
    assert not torch.allclose(first[half:], second[half:])


def test_a_dictionary_trained_on_still_images_has_the_bits_of_one_trained_twice(model: nn.Module) -> None:
    live = LiveRows(model, Digits().load("train"), at="1")
    one, other = (train(live, TopK(d_sae=12, k=2), Training(epochs=2, batch_size=128)) for _ in range(2))
    assert one.hook_name == "1"
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_threads_that_read_at_once_do_not_meet(model: nn.Module) -> None:
    live = LiveRows(model, Digits().load("train"), at="1")
    expected = torch.cat(list(live.blocks(16)))
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(torch.cat(list(live.blocks(16))))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for rows in found:
        torch.testing.assert_close(rows, expected)


def test_several_rows_an_image_are_refused() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(InputError, match="36 rows an image with rows='position'"):
        LiveRows(convolution, Digits().load("test"), at="0", rows="position")
