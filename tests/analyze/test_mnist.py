"""The way from real images to an atlas, against dense brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, mutual_info_score

from unweave.analyze import Analysis, analyze
from unweave.capture import capture
from unweave.datasets.mnist import Mnist
from unweave.dictionaries.random_directions import RandomDirections
from unweave.models.mlp import MLP


def test_mnist_through_an_untrained_network(data_dir):
    images = Mnist().load("test", data_dir)
    model = MLP(widths=(32,), mean=0.1307, std=0.3081).build(images.shape, 10, torch.Generator().manual_seed(0))
    store = capture(model, images, at="fc1", batch_size=2048)
    dictionary = RandomDirections(d_sae=64, k=4).build(store.d_in)
    dictionary.prepare(store, torch.Generator().manual_seed(1))
    atlas = analyze(dictionary, store, images=images, analysis=Analysis(permutations=19, top=5))

    assert (store.n, store.d_in, atlas.metrics["dictionary/rows"]) == (10_000, 32, 10_000)
    pixels = images.pixels(torch.arange(len(images)))
    expected = model.fc1(model.normalise(pixels.float() / 255).flatten(1)).detach()
    assert torch.allclose(store.rows(0, store.n), expected, atol=1e-4)
    label = images.labels.numpy()
    assert np.array_equal(store.label.numpy(), label)
    assert np.array_equal(atlas.class_totals, np.bincount(label))

    dense = dictionary.encode(store.rows(0, store.n)).numpy()
    assert atlas.metrics["dictionary/l0"] == pytest.approx((dense > 0).sum(1).mean(), rel=1e-4)
    x_hat = dictionary(store.rows(0, store.n)).double()
    x = store.rows(0, store.n).double()
    explained = 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    assert atlas.metrics["dictionary/explained_variance"] == pytest.approx(float(explained), abs=1e-5)
    for j in (0, 17, 63):
        information = mutual_info_score(label, dense[:, j] > 0) / np.log(2)
        assert atlas.column("mutual_information")[j] == pytest.approx(information, abs=1e-4)
        best = atlas.column("best_class")[j]
        precision = average_precision_score(label == best, dense[:, j])
        assert atlas.column("average_precision")[j] == pytest.approx(precision, abs=1e-3)
        strongest = np.argsort(-dense[:, j], kind="stable")[:5]
        assert np.array_equal(atlas.top_images(j), pixels[strongest].numpy())
