"""Maps of images: exact where the model is linear, against finite differences where not, and beside their controls."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from unweave.analyze.attribution import METHODS, attribute, dealt_out_again, map_similarity
from unweave.core.errors import InputError
from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows
from unweave.testing import example

pytest.importorskip("captum")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed))


def network(*, hidden: int = 12, layers: type = nn.Tanh, channels: int = 1) -> nn.Module:
    """A small network on images 6 × 6; hook point "1" is linear in the pixels, "3" is not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, hidden), layers(), nn.Linear(hidden, 8), nn.ReLU())
    for seed, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.4, generator=generator(seed))
    return model


def dictionary(config, d_in: int):
    sae = config.build(d_in)
    sae.prepare(TensorRows(drawn(50, d_in, seed=7)), generator(3))
    return sae.to_inference()


def test_a_linear_latent_has_the_map_of_its_weights():
    model, sae, image = network(channels=3), dictionary(ReLU(d_sae=9), 12), drawn(3, 6, 6)
    weights = (sae.W_enc[:, 4] @ model[1].weight).detach().view(3, 6, 6)
    for baseline, start in (
        ("black", 0 * image),
        ("mean", image.mean((1, 2), keepdim=True)),
        (drawn(3, 6, 6, seed=2),) * 2,
    ):
        found = attribute(model, sae, image, 4, at="1", baseline=baseline, control=None)
        expected = (weights * (image - start)).sum(0)
        assert np.allclose(found.map, expected, atol=1e-5)
        assert found.value - found.baseline_value == pytest.approx(float(expected.sum()), abs=1e-5)
        assert found.gap < 1e-4
        assert (found.of, found.position, found.control) == ("pre-activation", 0, None)


def test_integrated_gradients_against_finite_differences():
    model, sae, image = network().double(), dictionary(ReLU(d_sae=9), 8).double(), drawn(1, 6, 6).double()

    def value(images):
        return sae.pre_activations(model[:4](images))[:, 2].detach()

    shares = ((torch.arange(200) + 0.5) / 200).double().view(-1, 1, 1, 1)
    expected = np.zeros((6, 6))
    for place in range(36):
        step = torch.zeros(36).double()
        step[place] = 1e-4
        step = step.view(1, 6, 6)
        slopes = (value(shares * image + step) - value(shares * image - step)) / 2e-4
        expected[place // 6, place % 6] = float(slopes.mean() * image.flatten()[place])
    found = attribute(model, sae, image, 2, at="3", control=None)
    assert np.allclose(found.map, expected, atol=1e-4)
    assert found.value == pytest.approx(float(value(image[None])))
    assert found.gap < 1e-5


def test_a_code_that_jumps_leaves_a_gap_and_its_pre_activation_does_not():
    model, sae, image = network(layers=nn.ReLU), dictionary(TopK(d_sae=30, k=1), 8), drawn(1, 6, 6)
    latent = int(sae.encode(model[:4](image[None]))[0].argmax())
    codes = attribute(model, sae, image, latent, at="3", of="code", control=None)
    before = attribute(model, sae, image, latent, at="3", control=None)
    assert codes.of == "code"
    assert codes.value == pytest.approx(codes.code) == pytest.approx(before.value)
    assert codes.baseline_value == 0
    assert codes.gap > 0.05 > before.gap
    for found in (codes, before):
        assert found.gap == pytest.approx(
            abs(found.map.sum() - (found.value - found.baseline_value)) / abs(found.value - found.baseline_value),
            abs=1e-5,
        )


def test_occlusion_by_hand():
    """Windows of 2 × 2 by steps of 1: each pixel gets the mean of what its windows hide."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 1, bias=False))
    weight = torch.arange(1.0, 10).view(3, 3)
    with torch.no_grad():
        model[1].weight.copy_(weight.view(1, 9))
    sae = ReLU(d_sae=1).build(1)
    nn.init.ones_(sae.W_enc)
    found = attribute(model, sae, torch.ones(1, 3, 3), 0, at="1", method="occlusion", of="code", window=2, control=None)
    hidden = weight.unfold(0, 2, 1).unfold(1, 2, 1).sum((2, 3))  # [2, 2]: what each window takes away
    assert found.map[0, 0] == hidden[0, 0]
    assert found.map[1, 1] == pytest.approx(float(hidden.mean()))
    assert found.map[0, 1] == pytest.approx(float(hidden[0].mean()))
    assert np.isnan(found.gap)
    assert (found.of, found.code, found.value) == ("code", 45, 45)


@pytest.mark.parametrize("kind", sorted(DictionaryConfig.registry.members()))
def test_every_kind_of_dictionary_has_a_map(kind):
    """It adds up where pre-activations are attributed; where codes are, jumps may leave a gap, which is told."""
    model, image = network(layers=nn.Softplus), drawn(1, 6, 6)
    rows = model[:3](drawn(60, 1, 6, 6, seed=5)).detach()
    sae = example(DictionaryConfig.registry.members()[kind]).build(12)
    sae.prepare(TensorRows(rows), generator(3))
    sae = sae.to_inference()
    codes = sae.encode(model[:3](image[None]))
    latent = int(codes[0].abs().argmax())
    if codes.requires_grad:
        found = attribute(model, sae, image, latent, at="2", control=None)
        assert found.of == ("pre-activation" if hasattr(sae, "pre_activations") else "code")
        assert found.of == "code" or found.gap < 0.01
        if kind in ("relu", "topk", "batch-topk", "jumprelu"):
            assert found.value == pytest.approx(found.code)
            assert found.code > 0
    else:
        with pytest.raises(InputError, match="without gradients"):
            attribute(model, sae, image, latent, at="2", control=None)
    assert attribute(model, sae, image, latent, at="2", method="occlusion", control=None).map.any()


def test_the_window_follows_the_size_of_the_image():
    sae, image = dictionary(ReLU(d_sae=4), 3), torch.ones(1, 28, 42)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = attribute(model, sae, image, 0, at="2", method="occlusion", control=None)
    whole = attribute(model, sae, image, 0, at="2", method="occlusion", window=99, control=None)
    assert np.allclose(found.map, (found.value - found.baseline_value) * 16 / (28 * 42), atol=1e-5)
    assert np.allclose(whole.map, whole.value - whole.baseline_value, atol=1e-5)


def test_of_several_rows_the_strongest_is_looked_at():
    model = nn.Sequential(nn.Conv2d(1, 5, 3, bias=False), nn.ReLU(inplace=True))
    nn.init.normal_(model[0].weight, generator=generator(1))
    sae, image = dictionary(TopK(d_sae=8, k=2), 5), drawn(1, 9, 9)
    codes = sae.encode(model[0](image[None])[0].flatten(1).T)  # [49, 8]
    latent = int(codes.max(0).values.argmax())
    found = attribute(model, sae, image, latent, at="0", rows="position")
    assert found.position == int(codes[:, latent].argmax())
    assert found.code == pytest.approx(float(codes[:, latent].detach().max()))
    y, x = divmod(found.position, 7)
    seen = np.zeros((9, 9), bool)
    seen[y : y + 3, x : x + 3] = True
    assert (found.map[~seen] == 0).all()
    assert (found.control[~seen] == 0).all()
    assert np.abs(found.map[seen]).min() > 0
    silent = attribute(model, sae, 0 * image, latent, at="0", rows="position", control=None)
    assert (silent.code, silent.map.any()) == (0, False)
    assert np.isnan(silent.gap)
    assert (
        silent.said == f"The latent's drive (its value before the activation) is {silent.value:.3g} on this image "
        f"and {silent.value:.3g} on the baseline."
    )


def test_codes_without_a_gradient_are_said_to_have_none(monkeypatch):
    model, sae, image = network(), dictionary(Neurons(), 8), drawn(1, 6, 6)
    encode = type(sae).encode
    monkeypatch.setattr(type(sae), "encode", lambda self, x: encode(self, x).detach())
    with pytest.raises(InputError, match="without gradients; use method='occlusion'"):
        attribute(model, sae, image, 0, at="3")
    assert np.isfinite(attribute(model, sae, image, 0, at="3", method="occlusion").map).all()
    with pytest.raises(InputError, match="no pre-activations; attribute its codes"):
        attribute(model, sae, image, 0, at="3", of="pre-activation")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["output", "input"])
def test_nothing_of_the_model_is_touched(method, side):
    model, image = network(layers=nn.ReLU), drawn(1, 6, 6)
    sae = dictionary(ReLU(d_sae=9), 8 if side == "output" else 12)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = attribute(model, sae, image, 2, at="3", method=method, side=side)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[3]._forward_hooks
    assert found.map.shape == found.control.shape == (6, 6)
    rows = (model[:4] if side == "output" else model[:3])(image[None]).detach()
    assert found.value == pytest.approx(float(sae.pre_activations(rows)[0, 2]), rel=1e-5)


def test_the_seed_decides_the_control():
    model, sae, image = network(), dictionary(ReLU(d_sae=9), 8), drawn(1, 6, 6)
    for control in ("model", "direction"):
        first, again, other = (attribute(model, sae, image, 1, at="3", control=control, seed=s) for s in (0, 0, 1))
        assert np.array_equal(first.control, again.control)
        assert not np.array_equal(first.control, other.control)
        assert np.array_equal(first.map, other.map)
        assert -1 <= first.similarity <= 1
        assert "Its sizes correlate" in first.said


def test_a_direction_in_place_of_the_latent_has_the_map_of_that_direction():
    model, sae, image = network(), dictionary(ReLU(d_sae=9), 12), drawn(1, 6, 6)
    found = attribute(model, sae, image, 1, at="1", control="direction")
    weights = model[1].weight.detach()
    fitted = torch.linalg.lstsq((weights * image.flatten()).T, torch.from_numpy(found.control).flatten()[:, None])
    assert float(fitted.solution.norm()) == pytest.approx(1, abs=1e-4), "a unit direction of the rows"


def test_weights_are_dealt_out_within_each_tensor():
    model = network()
    other, again = dealt_out_again(model, 0), dealt_out_again(model, 0)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)
        assert not torch.equal(ours, theirs), name
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), again.parameters(), strict=True))


def test_maps_are_compared_where_there_is_something_to_see():
    first = np.array([[0.0, 1, -2], [3, 4, 0]])
    second = np.array([[0.0, -1, 3], [5, 9, 0]])
    everywhere, there = np.ones((2, 3), bool), first != 0
    assert map_similarity(first, second, there) == pytest.approx(1)
    assert map_similarity(first, -second[::-1], everywhere) == pytest.approx(
        map_similarity(first, second[::-1], everywhere)
    )
    assert np.isnan(map_similarity(first, 0 * second, there))
    assert np.isnan(map_similarity(first, second, first > 2))


def test_without_captum_the_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"attribution needs captum, .* pip install 'unweave\[app\]'"):
        attribute(network(), dictionary(ReLU(d_sae=9), 8), drawn(1, 6, 6), 0, at="3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": 9}, "no latent 9: the dictionary has 9"),
        ({"method": "occlude"}, "method='occlude': did you mean 'occlusion'"),
        ({"control": "none"}, "control='none'"),
        ({"of": "codes"}, "of='codes': did you mean 'code'"),
        ({"baseline": "white"}, "baseline='white'"),
        ({"baseline": torch.zeros(1, 6, 5)}, r"the baseline is \[1, 6, 5\], the image \[1, 6, 6\]"),
        ({"image": torch.zeros(6, 6)}, r"floats \[c, h, w\]"),
        ({"at": None}, "name the module, at="),
        ({"at": "1"}, "rows of width 12 with rows='flatten', the dictionary takes 8"),
        ({"at": "9"}, "no module '9'"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    asked = {"image": drawn(1, 6, 6), "latent": 0, "at": "3", **change}
    image, latent = asked.pop("image"), asked.pop("latent")
    with pytest.raises(InputError, match=message):
        attribute(network(), dictionary(ReLU(d_sae=9), 8), image, latent, **asked)
