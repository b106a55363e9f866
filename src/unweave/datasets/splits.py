"""The one way in which data sets without a split of their own are split into train and test."""

import numpy as np
from jaxtyping import Int64

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator

# A constant: which images are test images is part of the data set, not of an experiment and its seed.
_SPLIT_SEED = 0


def check_test_share(test_share: float) -> None:
    """Refuse a share of test images that leaves one of the splits empty.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise InputError(f"test_share is {test_share}: give a share between 0 and 1, 0.2 for a fifth of each class")


def stratified_split(
    labels: Int64[np.ndarray, " n"], test_share: float
) -> tuple[Int64[np.ndarray, " n_train"], Int64[np.ndarray, " n_test"]]:
    """Indices of the train and of the test images, each increasing, the same on every call.

    Of a class with m ≥ 2 images, round(test_share · m) are test images, but at least one and at most m − 1; a class
    with a single image has it in train. The draw of a class depends on its number and its size only.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    check_test_share(test_share)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        n_test = min(max(round(test_share * len(members)), 1), len(members) - 1)
        order = numpy_generator(_SPLIT_SEED, "datasets", "split", int(label)).permutation(len(members))
        is_test[members[order[:n_test]]] = True
    return np.flatnonzero(~is_test).astype(np.int64), np.flatnonzero(is_test).astype(np.int64)
