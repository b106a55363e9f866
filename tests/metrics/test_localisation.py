"""Localisation by hand, and its null."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unweave.core.errors import InputError
from unweave.metrics.localisation import dealt_again, localisation, parts, smallest_set, spatial_entropy


def test_the_smallest_set_holds_half_of_the_mass():
    mass = np.array([[5.0, 1.0], [3.0, 1.0]])
    assert smallest_set(mass).tolist() == [[True, False], [False, False]]
    assert smallest_set(mass, 0.51).tolist() == [[True, False], [True, False]]
    assert smallest_set(mass, 1.0).all()
    assert smallest_set(np.ones((2, 2))).tolist() == [[True, True], [False, False]]


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 10)))
def test_no_smaller_set_would_do(mass):
    mass[0, 0] += 1
    chosen = smallest_set(mass)
    assert mass[chosen].sum() >= 0.5 * mass.sum() * (1 - 1e-9)
    assert mass[chosen].sum() - mass[chosen].min() < 0.5 * mass.sum() * (1 + 1e-9)


def test_parts_touch_by_side_or_corner():
    chosen = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    mass = np.ones((4, 4))
    assert parts(mass, chosen) == (3, pytest.approx(2 / 5))


def test_entropy_over_cells():
    maps = np.zeros((3, 8, 8))
    maps[0, 0, 0] = 7  # one cell
    maps[1] = 1  # all 16
    maps[2, 0, [0, 2]] = 1  # two cells
    assert spatial_entropy(maps) == pytest.approx([0, 4, 1])
    assert spatial_entropy(np.ones((1, 5, 7)), 3)[0] < 2 * np.log2(3), "cells of unequal size hold unequal mass"


def test_localisation_tells_a_blob_from_dust():
    blob, dust = np.zeros((8, 8)), np.zeros((8, 8))
    blob[2:4, 2:4] = 1
    dust[::3, ::3] = 1
    found = localisation(np.stack([blob, dust]), share=0.9)
    assert found.components.tolist() == [1, 9]
    assert found.largest == pytest.approx([1, 1 / 9])
    assert found.entropy[0] < found.entropy[1]
    assert set(found.measures()) == {"components", "largest", "entropy"}


def test_dealing_again_keeps_values_and_what_never_varies():
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(3, 4, 4))
    varies = np.ones((4, 4), bool)
    varies[0] = False
    dealt = dealt_again(maps, varies, generator)
    assert np.array_equal(dealt[:, 0], maps[:, 0])
    assert np.allclose(np.sort(dealt[:, 1:].reshape(3, -1)), np.sort(maps[:, 1:].reshape(3, -1)))
    assert not np.allclose(dealt, maps)
    assert not np.array_equal(np.argsort(dealt[0, 1:].ravel()), np.argsort(dealt[1, 1:].ravel()))


def test_maps_without_mass_are_refused():
    for wrong in (np.zeros((1, 4, 4)), -np.ones((1, 4, 4)), np.full((1, 4, 4), np.nan)):
        with pytest.raises(InputError, match="map 0 has no mass"):
            localisation(wrong)
    with pytest.raises(InputError, match="4 cells a side does not fit maps of 3 by 5"):
        localisation(np.ones((1, 3, 5)))
