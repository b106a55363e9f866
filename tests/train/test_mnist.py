"""On real digits, a trained dictionary says more with k latents than k units or k of as many random directions do."""

from pathlib import Path

import torch
from torch import Tensor

from unweave.datasets.mnist import Mnist
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.random_directions import RandomDirections
from unweave.dictionaries.topk import TopK
from unweave.train import Training, train


def _explained(dictionary: Dictionary, rows: Tensor) -> float:
    error = (rows - dictionary(rows)).double().square().sum()
    return float(1 - error / (rows - rows.mean(0)).double().square().sum())


def test_a_trained_dictionary_of_digits_beats_its_controls(data_dir: Path) -> None:
    digits = Mnist().load("test", data_dir).pixels(torch.arange(4000)).flatten(1) / 255
    seen, unseen = digits[:3000], digits[3000:]
    training = Training(epochs=10, batch_size=256)
    trained = train(seen, TopK(d_sae=128, k=16), training)
    explained = _explained(trained, unseen)
    assert 0.55 < explained < 0.95  # 0.72 with 256 latents on 5,000 digits; PCA keeps 0.74
    assert explained > 3 * _explained(train(seen, Neurons(k=16)), unseen)
    assert explained > 5 * _explained(train(seen, RandomDirections(d_sae=128, k=16)), unseen)
    active = trained.encode_sparse(unseen)
    assert 8 < active.nnz / active.n <= 16
