"""Splicing: numbers by hand on a planted model, sums that do not depend on the batch, the artifact."""

import inspect
import math

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from unweave.core.errors import InputError, StoreError
from unweave.datasets.base import MemoryImages, MemoryTexts
from unweave.dictionaries.relu import ReLU
from unweave.models.hooks import HookPoints
from unweave.steer import Response, load_splice, splice
from unweave.steer.examples import Examples


@pytest.fixture
def planted():
    """Two logits that are the row itself; a dictionary that sees the first entry only; four rows."""
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.eye(2)
    sae = ReLU(d_sae=1).build(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
    return model, sae.to_inference(), torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 2.0], [0.0, 6.0]])


def loss(margin: float) -> float:
    """Cross-entropy of two logits, the right one ahead by so much."""
    return math.log1p(math.exp(-margin))


def test_numbers_by_hand(planted):
    model, sae, x = planted
    found = splice(model, sae, x, [0, 0, 1, 1], at="0")
    own = (loss(2) + loss(4) + loss(2) + loss(6)) / 4
    assert found.n == 4
    assert found.model.cross_entropy == pytest.approx(own, rel=1e-6)
    assert (found.model.accuracy, found.model.kl, found.model.agreement) == (1.0, 0.0, 1.0)
    # x̂ keeps the first entry and loses the second: the last two rows become (0, 0), of which the first class wins.
    spliced = (loss(2) + loss(4) + 2 * loss(0)) / 4
    assert found.spliced.cross_entropy == pytest.approx(spliced, rel=1e-6)
    assert (found.spliced.accuracy, found.spliced.agreement) == (0.5, 0.5)
    mean = (2 * loss(-0.5) + 2 * loss(0.5)) / 4  # the mean row is (1.5, 2)
    assert found.mean.cross_entropy == pytest.approx(mean, rel=1e-6)
    assert found.zero.cross_entropy == pytest.approx(math.log(2), rel=1e-6)
    assert found.recovered_mean == pytest.approx((mean - spliced) / (mean - own), rel=1e-5)
    assert found.recovered_zero == pytest.approx((math.log(2) - spliced) / (math.log(2) - own), rel=1e-5)
    p = torch.tensor([[2.0, 6.0]]).sigmoid()
    kl = (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).sum() / 4
    assert found.spliced.kl == pytest.approx(float(kl), rel=1e-5)


def test_a_perfect_dictionary_loses_nothing(planted):
    model, _, x = planted
    sae = ReLU(d_sae=2).build(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
    found = splice(model, sae.to_inference(), x, [0, 0, 1, 1], at="0")
    assert found.spliced == found.model
    assert found.recovered_mean == found.recovered_zero == 1.0


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_the_batch_size_changes_nothing(model, sae, x, labels, batch_size):
    whole, parts = splice(model, sae, x, labels), splice(model, sae, x, labels, batch_size=batch_size)
    for name in ("model", "spliced", "mean", "zero"):
        one, other = whole.conditions[name], parts.conditions[name]
        assert one.accuracy == other.accuracy
        assert one.cross_entropy == pytest.approx(other.cross_entropy, rel=1e-6)
        assert one.kl == pytest.approx(other.kl, rel=1e-4, abs=1e-9)


@torch.no_grad()
def test_the_model_around_the_hook_point_may_skip_it(sae, x, labels):
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(self.hidden(inputs) + nn.functional.pad(inputs, (0, 2)))

    model = Skips()
    found = splice(model, sae, x, labels)
    hidden = HookPoints(model, "hidden").read(x)["hidden"]
    logits = model.head(sae(hidden) + nn.functional.pad(x, (0, 2)))
    assert found.spliced.cross_entropy == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    logits = model.head(hidden.mean(0) + nn.functional.pad(x, (0, 2)))
    assert found.mean.cross_entropy == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_places_of_a_feature_map(make_sae):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))
    pixels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = MemoryImages(pixels, torch.arange(30) % 4, list("abcd"))
    found = splice(model, make_sae(3, 12), images, at="1", rows="position")
    floats, label = pixels.float() / 255, images.labels
    with torch.no_grad():
        places = model[1](model[0](floats)).flatten(2).transpose(1, 2)
        mean = places.mean((0, 1)).view(1, 3, 1, 1).expand(30, 3, 6, 6)
        expected = nn.functional.cross_entropy(model[3](model[2](mean)), label)
    assert found.mean.cross_entropy == pytest.approx(float(expected), rel=1e-5)
    assert found.n == 30


def test_the_artifact_is_read_back_and_not_made_again(model, sae, x, labels, tmp_path):
    found = splice(model, sae, x, labels, out=tmp_path / "splice")
    before = (tmp_path / "splice" / "manifest.json").stat().st_mtime_ns
    assert splice(model, sae, x, labels, out=tmp_path / "splice") == found == load_splice(tmp_path / "splice")
    assert (tmp_path / "splice" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="made from other settings"):
        splice(model, sae, x, labels.flip(0), out=tmp_path / "splice")
    with pytest.raises(StoreError, match="of kind 'splice', not 'dose-response'"):
        Response(tmp_path / "splice")


def test_metrics_and_figure(model, sae, x, labels):
    found = splice(model, sae, x, labels)
    assert found.metrics["splice/recovered_mean"] == found.recovered_mean
    assert found.metrics["splice/cross_entropy_spliced"] == found.spliced.cross_entropy
    assert found.metrics["splice/examples"] == 40
    assert all(name.startswith("splice/") for name in found.metrics)
    assert isinstance(found.figure({"pca": found}), Figure)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "cross-entropy needs to know what is right: give labels="),
        ([0] * 39, "39 labels for 40 examples"),
        ([3] * 40, "labels lie from 3 to 3, the model answers with 3 classes"),
        ([0.5] * 40, "labels must be whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, sae, x, labels, message):
    undecorated = inspect.unwrap(splice)
    with pytest.raises(InputError, match=message):
        undecorated(model, sae, x, labels if labels is None else torch.tensor(labels))


def test_answers_that_are_no_logits_are_refused(sae, x, labels):
    class Pictures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(4, 6)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.hidden(inputs).view(-1, 2, 3)

    with pytest.raises(InputError, match=r"answers with \[40, 2, 3\]; logits are floats \[b, classes\]"):
        splice(Pictures(), sae, x, labels)


def test_labels_of_a_data_set_say_nothing_of_other_classes_than_its_own():
    data = MemoryTexts(["a", "b"], torch.tensor([0, 1]), ["x", "y"])
    reads = type("Reads", (nn.Identity,), {"encode": lambda self, texts, length=None: torch.zeros(len(texts), 2, 1)})()
    assert Examples(data, None, None, reads).labels.tolist() == [0, 1]
    assert Examples(data, None, ["x", "y"], reads).labels.tolist() == [0, 1]
    assert Examples(data, None, ["p", "q"], reads).labels is None
    assert Examples(data, [1, 0], ["p", "q"], reads).labels.tolist() == [1, 0]
