"""Training of a classifier, its artifact, and reading it back."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import hash_module
from unweave.core.seeds import torch_generator
from unweave.datasets.base import MemoryImages
from unweave.datasets.digits import Digits
from unweave.models.classifier import evaluate, load_model, train_classifier
from unweave.models.custom import Custom
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP


def blobs(n: int = 60, seed: int = 0) -> MemoryImages:
    """Two classes: the left or the right half is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    pixels = torch.randint(40, (n, 1, 2, 4), generator=generator, dtype=torch.uint8)
    pixels[labels == 0, :, :, :2] += 180
    pixels[labels == 1, :, :, 2:] += 180
    return MemoryImages(pixels, labels, ["left", "right"])


def test_digits_are_learned_and_every_epoch_is_measured(tmp_path):
    data = Digits()
    train, test = data.load("train"), data.load("test")
    fit = Fit(epochs=5, learning_rate=1e-2)
    model = train_classifier(MLP(widths=(32,)), fit, train, test, seed=0, out=tmp_path / "m")
    assert model.test_accuracy > 0.9
    assert not model.module.training
    curves = model.curves
    per_epoch = -(-len(train) // 64)
    measured = [i for i, value in enumerate(curves["test_accuracy"]) if not math.isnan(value)]
    assert [curves["epoch"][i] for i in measured] == [0, 1, 2, 3, 4, 5]
    assert [curves["step"][i] for i in measured] == [per_epoch * e for e in range(6)]
    assert math.isnan(curves["train_loss"][0])
    assert curves["train_loss"][-1] < 0.3 * curves["train_loss"][1]
    assert curves["test_accuracy"][0] < 0.4
    assert (model.test_accuracy, curves["test_loss"][-1]) == pytest.approx(evaluate(model.module, test))
    assert all(len(column) == len(curves["step"]) for column in curves.values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_step_by_hand(tmp_path, optimizer):
    """One batch of everything: the weights are those of one step of torch's optimiser on the start."""
    images = blobs(8)
    fit = Fit(optimizer=optimizer, epochs=1, batch_size=8, learning_rate=0.1)
    trained = train_classifier(MLP(widths=()), fit, images, images, seed=3, out=tmp_path / "m")
    start = train_classifier(
        MLP(widths=()), Fit(optimizer="sgd", epochs=1, batch_size=8, learning_rate=1e-30), images, images,
        seed=3, out=tmp_path / "start",
    )  # fmt: skip
    expected = start.module
    assert start.curves["train_loss"] == pytest.approx(trained.curves["train_loss"], rel=1e-6, nan_ok=True)
    assert start.curves["test_loss"][0] == pytest.approx(trained.curves["train_loss"][1], rel=1e-6)
    step = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](expected.parameters(), lr=0.1)
    cross_entropy(expected(images.pixels(torch.arange(8)).float() / 255), images.labels).backward()
    step.step()
    for name, value in expected.state_dict().items():
        assert torch.allclose(trained.module.state_dict()[name], value, atol=1e-5), name


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model(tmp_path):
    images = blobs()
    ids = [
        hash_module(train_classifier(MLP(widths=(4,)), Fit(epochs=2), images, images, seed=s, out=tmp_path / o).module)
        for s, o in [(0, "a"), (0, "b"), (1, "c")]
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_trained_model_is_read_back_and_not_trained_again(tmp_path, monkeypatch):
    images, out = blobs(), tmp_path / "m"
    first = train_classifier(MLP(widths=(4,)), Fit(epochs=2), images, images, seed=0, out=out)
    monkeypatch.setattr("unweave.models.classifier.descend", lambda *_, **__: pytest.fail("trained again"))
    for again in (train_classifier(MLP(widths=(4,)), Fit(epochs=2), images, images, seed=0, out=out), load_model(out)):
        assert again.id == first.id
        assert hash_module(again.module) == hash_module(first.module)
        assert not again.module.training
        assert list(again.curves) == list(first.curves)
        for name, column in first.curves.items():
            assert again.curves[name] == pytest.approx(column, nan_ok=True)


@pytest.mark.parametrize("change", [{"seed": 1}, {"fit": Fit(epochs=3)}, {"train": blobs(seed=9)}])
def test_another_model_in_the_folder_is_not_mistaken_for_this_one(tmp_path, change):
    images = blobs()
    wanted = {"config": MLP(widths=(2,)), "fit": Fit(epochs=1), "train": images, "test": images, "seed": 0}
    train_classifier(**wanted, out=tmp_path / "m")
    with pytest.raises(InputError, match="other settings or inputs"):
        train_classifier(**{**wanted, **change}, out=tmp_path / "m")


def test_damaged_and_missing_weights_are_named(tmp_path):
    images, out = blobs(), tmp_path / "m"
    train_classifier(MLP(widths=(4,)), Fit(epochs=1), images, images, seed=0, out=out)
    weights = out / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load_model(out)
    weights.unlink()
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load_model(out)


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_settings_that_cannot_train_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Fit(**wrong)


def test_no_epoch_takes_the_network_as_it_is(tmp_path):
    images = blobs()
    model = train_classifier(MLP(widths=(4,)), Fit(epochs=0), images, images, seed=3, out=tmp_path / "m")
    untrained = MLP(widths=(4,)).build(images.shape, 2, torch_generator(3, "model"))
    assert hash_module(model.module) == hash_module(untrained) == hash_module(load_model(tmp_path / "m").module)
    assert model.curves["epoch"] == model.curves["step"] == [0.0]
    accuracy, loss = evaluate(untrained, images)
    assert (model.test_accuracy, model.curves["test_loss"][0]) == pytest.approx((accuracy, loss))


def test_evaluate_by_hand_and_whatever_the_batches():
    pixels = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    images = MemoryImages(pixels, torch.tensor([1, 0, 0]), ["dark", "bright"])

    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x.flatten(1)), 4 * self.scale * (x.flatten(1) - 0.5)], 1)

    accuracy, loss = evaluate(Brightness(), images)
    low, high = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx((low + low + high) / 3, rel=1e-6)


class Tied(nn.Module):
    """Two names for one weight, and a start from torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.inner.weight
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(torch.relu(self.inner(x.flatten(1)))))


def test_a_users_network_with_tied_weights_trains_from_the_seed_alone(tmp_path, monkeypatch):
    (tmp_path / "tied_net.py").write_text("from torch import nn\nmake = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    import tied_net

    monkeypatch.setattr(tied_net, "make", Tied)
    images, before = blobs(), torch.get_rng_state()
    models = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        config = Custom(factory="tied_net:make")
        models.append(train_classifier(config, Fit(epochs=1), images, images, seed=seed, out=tmp_path / name).module)
        torch.rand(3)
    assert hash_module(models[0]) == hash_module(models[1]) != hash_module(models[2])
    assert hash_module(load_model(tmp_path / "a").module) == hash_module(models[0])
    torch.set_rng_state(before)
