"""The bundled digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.datasets.base import DatasetConfig
from unweave.datasets.digits import Digits


def test_it_is_registered_and_survives_json():
    assert DatasetConfig.registry["digits"] is Digits
    config = Digits(test_share=0.3)
    assert from_json(DatasetConfig, to_json(config)) == config


def test_shapes_names_and_share():
    train, test = Digits().load("train"), Digits().load("test")
    assert train.shape == (1, 8, 8)
    assert len(train) + len(test) == 1797
    assert train.class_names == list("0123456789")
    totals = torch.bincount(train.labels) + torch.bincount(test.labels)
    assert torch.bincount(test.labels).tolist() == [round(0.2 * int(n)) for n in totals]
    assert train.id != test.id


def test_it_is_the_same_every_time():
    assert Digits().load("test").id == Digits().load("test").id
    assert Digits().load("test").id != Digits(test_share=0.3).load("test").id


def test_pixels_are_scikit_learns_scaled_to_bytes():
    bundled = load_digits()
    train, test = Digits().load("train"), Digits().load("test")
    got = torch.cat([data.pixels(torch.arange(len(data))) for data in (train, test)]).numpy()
    assert got.dtype == np.uint8
    # 255/16 = 15.9375, so that a byte goes back to exactly one of the original values.
    back = np.rint(got[:, 0] / 255 * 16)
    assert sorted(map(bytes, back.astype(np.uint8))) == sorted(map(bytes, bundled.images.astype(np.uint8)))
    assert set(np.unique(got)) == {round(value * 255 / 16) for value in range(17)}


def test_batches_are_floats_in_order():
    test = Digits().load("test")
    batches = list(test.batches(100))
    assert torch.cat([batch.example for batch in batches]).tolist() == list(range(len(test)))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), test.labels)
    assert float(max(batch.images.max() for batch in batches)) == 1.0


def test_a_wrong_share_is_refused_at_once():
    with pytest.raises(InputError, match=r"test_share is 1\.5"):
        Digits(test_share=1.5)
