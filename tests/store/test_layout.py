"""Grids, boxes and heat maps by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.store.layout import Box, Layout, as_details, find_grid, from_details, is_grid


@pytest.mark.parametrize(
    ("tokens", "size", "patch", "grid"),
    [
        (197, (224, 224), None, (14, 14, 1)),
        (196, (224, 224), None, (14, 14, 0)),
        (261, (224, 224), None, (16, 16, 5)),
        (50, (224, 224), None, (7, 7, 1)),
        (1370, (518, 518), None, (37, 37, 1)),
        (1 + 14 * 28, (224, 448), None, (14, 28, 1)),
        (1 + 16 * 16, (230, 230), 14, (16, 16, 1)),
        (9, (8, 8), 4, (2, 2, 5)),
        (3136, (224, 224), 4, (56, 56, 0)),
        (784, (224, 224), 4, (28, 28, 0)),
        (32, (224, 224), 14, None),
        (197, (240, 240), 12, (14, 14, 1)),
        (730, (224, 224), None, (27, 27, 1)),
        (1 + 12 * 24, (100, 200), None, (12, 24, 1)),
    ],
)
def test_the_grid_that_tokens_make(tokens, size, patch, grid):
    assert find_grid(tokens, size, patch) == grid


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 16), st.integers(0, 1))
def test_whole_patches_are_always_found_when_their_side_is_known(height, width, side, before):
    assert find_grid(height * width + before, (height * side, width * side), side) == (height, width, before)


def test_boxes_lie_row_by_row_and_a_prefix_has_none():
    layout = Layout(kind="grid", height=2, width=4, prefix=3)
    assert layout.box(2) is None
    assert layout.box(3 + 8) is None
    assert layout.box(layout.position(1, 2)) == Box(0.5, 0.5, 1.0, 0.75)
    assert layout.box(layout.position(1, 2)).pixels(20, 40) == (10, 20, 20, 30)
    assert Box(0.9, 0.9, 1.4, 1.4).pixels(4, 4) == (3, 3, 4, 4)


def test_values_lie_at_their_places_and_nothing_where_there_is_none():
    layout = Layout(kind="grid", height=2, width=2, prefix=1)
    heat = layout.heat(np.array([0, 1, 4]), np.array([9.0, 2.0, 3.0]))
    assert np.array_equal(heat, [[2, np.nan], [np.nan, 3]], equal_nan=True)


def test_tokens_in_an_order_of_their_own_lie_where_it_says():
    layout = Layout(kind="grid", height=2, width=2, prefix=1, order=(2, 0, 3, 1))
    assert layout.box(1) == Box(0.5, 0.0, 1.0, 0.5)
    assert [layout.position(*divmod(place, 2)) for place in range(4)] == [2, 4, 1, 3]
    assert np.array_equal(layout.heat(np.arange(5), np.array([9.0, 1.0, 2.0, 3.0, 4.0])), [[2, 4], [1, 3]])
    assert from_details(as_details(layout)) == layout


def test_a_layout_comes_back_from_a_manifest():
    layout = Layout(kind="grid", height=2, width=3, prefix=1, prefix_dropped=True, area=(0.1, 0.0, 0.9, 1.0))
    assert from_details(as_details(layout)) == layout
    assert from_details(None) is None
    with pytest.raises(InputError, match="cannot be read"):
        from_details({"kind": "grid", "tall": 3})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "grid"}, "a grid needs places"),
        ({"kind": "tokens", "prefix": -1}, "not be negative"),
        ({"kind": "grid", "height": 1, "width": 2, "order": (0, 0)}, "each of the 2 places once"),
        ({"kind": "whole", "area": (0.5, 0.0, 0.5, 1.0)}, "an extent"),
    ],
)
def test_what_is_no_layout_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Layout(**given)


def test_tokens_have_no_place():
    with pytest.raises(InputError, match="no place in an image"):
        Layout(kind="tokens").position(0, 0)
    with pytest.raises(InputError, match="no place in an image"):
        Layout(kind="tokens").heat(np.zeros(1, np.int64), np.zeros(1))
    with pytest.raises(InputError, match="no place \\(2, 0\\)"):
        Layout(kind="grid", height=2, width=2).position(2, 0)


def test_a_feature_map_lies_over_an_image_of_its_shape():
    assert is_grid(8, 12, (32, 48))
    assert is_grid(7, 7, (30, 30))
    assert not is_grid(12, 16, (64, 32))
    assert not is_grid(16, 8, (32, 32))
