"""Resizing in floats beside Pillow's own, filter by filter."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unweave.models.resampling import resize, weights

FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(64, 192, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("sizes", [((37, 53), (16, 20)), ((9, 14), (31, 40)), ((20, 20), (20, 7)), ((5, 8), (5, 8))])
def test_it_is_pillows_resize(resample, sizes):
    given, (height, width) = photo(*sizes[0]), sizes[1]
    wanted = np.asarray(Image.fromarray(given).resize((width, height), Image.Resampling[resample.upper()]))
    own = resize(torch.from_numpy(given).permute(2, 0, 1)[None].float() / 255, height, width, resample)
    difference = np.abs(own[0].permute(1, 2, 0).numpy() * 255 - wanted)
    assert difference.max() <= 1.5  # it rounds to bytes after the rows and after the columns
    assert difference.mean() <= 0.4


@given(given=st.integers(1, 40), wanted=st.integers(1, 40), resample=st.sampled_from(FILTERS))
def test_weights_of_a_pixel_sum_to_one(given, wanted, resample):
    found = weights(given, wanted, resample)
    assert found.shape == (wanted, given)
    torch.testing.assert_close(found.sum(1), torch.ones(wanted))


def test_gradients_flow_through_it():
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    resize(images, 4, 5, "bilinear").sum().backward()
    assert float(images.grad.abs().min()) > 0
