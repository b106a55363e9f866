"""The stratified split that data sets share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.datasets.splits import stratified_split


def test_each_class_gives_its_share():
    labels = np.array([0] * 10 + [1] * 20 + [2] * 5, dtype=np.int64)
    train, test = stratified_split(labels, 0.2)
    assert np.bincount(labels[test]).tolist() == [2, 4, 1]
    assert np.bincount(labels[train]).tolist() == [8, 16, 4]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
)
def test_splits_are_disjoint_whole_and_never_take_all_of_a_class(counts, share):
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    train, test = stratified_split(labels, share)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert test.tolist() == sorted(test.tolist())
    for label, count in enumerate(counts):
        n_test = int((labels[test] == label).sum())
        assert n_test == (0 if count == 1 else min(max(round(share * count), 1), count - 1))


def test_the_split_is_the_same_on_every_machine_and_call():
    labels = np.zeros(20, dtype=np.int64)
    _, test = stratified_split(labels, 0.25)
    assert test.tolist() == stratified_split(labels, 0.25)[1].tolist() == [0, 8, 11, 12, 17]


def test_one_class_more_leaves_the_others_as_they_were():
    few = np.repeat(np.arange(2, dtype=np.int64), 20)
    more = np.repeat(np.arange(3, dtype=np.int64), 20)
    _, test_few = stratified_split(few, 0.2)
    _, test_more = stratified_split(more, 0.2)
    assert test_more[test_more < 40].tolist() == test_few.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_empties_a_split_is_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified_split(np.zeros(4, dtype=np.int64), share)
