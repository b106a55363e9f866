"""From activations back to images."""

from pathlib import Path

import pytest
import torch
from torch import nn

from unweave.core.errors import InputError, StoreError
from unweave.core.seeds import torch_generator
from unweave.datasets.digits import Digits
from unweave.models.fitting import Fit
from unweave.models.pixel_decoder import PixelDecoder, load_decoder, pixel_errors, train_decoder

FIT = Fit(learning_rate=1e-2, epochs=4, batch_size=64)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network that keeps the whole image in its layer `1`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def test_it_learns_to_draw_what_the_layer_holds(model: nn.Module, tmp_path: Path) -> None:
    train, test = Digits().load("train"), Digits().load("test")
    trained = train_decoder(model, "1", FIT, train, test, seed=0, out=tmp_path / "d")
    assert trained.test_mse < 0.5 * trained.curves["test_mse"][0]
    assert trained.module.hook_name == "1"
    errors = pixel_errors(trained.module, model, "1", test)
    assert errors.shape == (len(test),)
    assert float(errors.mean()) == pytest.approx(trained.test_mse)


def test_it_is_read_back_as_it_was(model: nn.Module, tmp_path: Path) -> None:
    train, test = Digits().load("train"), Digits().load("test")
    first = train_decoder(model, "1", FIT, train, test, seed=0, out=tmp_path / "d")
    again = train_decoder(model, "1", FIT, train, test, seed=0, out=tmp_path / "d")
    elsewhere = train_decoder(model, "1", FIT, train, test, seed=0, out=tmp_path / "other")
    for other in (again, elsewhere, load_decoder(tmp_path / "d")):
        assert other.id == first.id
        torch.testing.assert_close(other.module.state_dict(), first.module.state_dict(), rtol=0, atol=0)
        assert other.module.shape == (1, 8, 8)


def test_pictures_have_the_images_shape_and_lie_between_0_and_1() -> None:
    decoder = PixelDecoder(5, (3, 2, 4), torch_generator(0))
    drawn = decoder(100 * torch.randn(7, 5, generator=torch_generator(1)))
    assert drawn.shape == (7, 3, 2, 4)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_a_hook_point_without_rows_is_refused(tmp_path: Path) -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    data = Digits().load("test")
    with pytest.raises(InputError, match=r"'0' gives \[1, 2, 6, 6\]; a pixel decoder needs"):
        train_decoder(convolution, "0", FIT, data, data, seed=0, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_folder_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no Unweave artifact"):
        load_decoder(tmp_path)
