"""A file whose dictionary normalises rows one by one, through everything that is done with a dictionary.

The truth is written out beside each: s(x)·(f W_dec + b_dec) + m(x), from the file's own tensors.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import random_tensors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unweave.analyze import analyze, attribute
from unweave.analyze.query import query
from unweave.app.network import Network
from unweave.capture import capture
from unweave.dictionaries.base import Dictionary
from unweave.formats import export, load
from unweave.models.hooks import HookPoints
from unweave.steer import ablation_effects, dose_response, moved_answers, splice, steer
from unweave.steer.edits import read_edits
from unweave.steer.fidelity import fidelity
from unweave.store.activations import Activations

D, S = 6, 12
MODES = ["layer_norm", "constant_norm_rescale"]
TENSORS = random_tensors(0, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))


class Net(nn.Module):
    """Images [1, 2, 2] to six units, far from zero and of lengths that differ much, to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.head = nn.Linear(4, D), nn.Identity(), nn.Linear(D, 3)
        for number, parameter in enumerate(self.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.data = 2 * torch.randn(parameter.shape, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.hidden(self.first(images.flatten(1)).exp()))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sae(mode: str, tmp_path: Path) -> Dictionary:
    """A repository of Prisma's, as it is loaded."""
    cfg = {"d_in": D, "d_sae": S, "activation_fn_str": "relu", "normalize_activations": mode, "hook_point": "hidden"}
    torch.save(TENSORS, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    return load(tmp_path)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(40) % 3


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


@pytest.fixture(scope="module")
def hidden(net: Net, images: Tensor) -> Tensor:
    return HookPoints(net, "hidden").read(images)["hidden"].detach()


@pytest.fixture(scope="module")
def store(net: Net, images: Tensor, labels: Tensor) -> Activations:
    return capture(net, images, at="hidden", labels=labels)


def parts(mode: str, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and codes of rows."""
    if mode == "layer_norm":
        mean, scale = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        z = (rows - mean) / (scale + 1e-5)
    else:
        mean, scale = torch.zeros(1), rows.norm(dim=1, keepdim=True) / D**0.5
        z = rows / scale
    return mean, scale, ((z - TENSORS["b_dec"]) @ TENSORS["W_enc"] + TENSORS["b_enc"]).relu()


def back(mode: str, rows: Tensor, codes: Tensor) -> Tensor:
    mean, scale, _ = parts(mode, rows)
    return (codes @ TENSORS["W_dec"] + TENSORS["b_dec"]) * scale + mean


def test_an_atlas_counts_in_the_scale_of_the_rows(
    mode: str, sae: Dictionary, store: Activations, hidden: Tensor, images: Tensor
) -> None:
    atlas = analyze(sae, store)
    _, scale, codes = parts(mode, hidden)
    spread = (hidden - hidden.mean(0)).double().square().sum()
    missed = (hidden - back(mode, hidden, codes)).double().square().sum()
    metrics = atlas.manifest.details["metrics"]
    assert metrics["dictionary/explained_variance"] == pytest.approx(float(1 - missed / spread), rel=1e-4)
    added = (scale * codes).double().square().mean(0) * TENSORS["W_dec"].double().square().sum(1)
    np.testing.assert_allclose(atlas.column("importance"), added / (spread / len(hidden)), rtol=1e-4)


def test_a_query_explains_in_the_scale_of_the_row(
    mode: str, sae: Dictionary, store: Activations, net: Net, hidden: Tensor, images: Tensor
) -> None:
    found = query(net, sae, store, images[3])
    row = hidden[3:4]
    missed = (row - back(mode, row, parts(mode, row)[2])).square().sum()
    assert found.explained == pytest.approx(float(1 - missed / (row - hidden.mean(0)).square().sum()), rel=1e-3)
    assert found.examples[0] == 3


@torch.no_grad()
@pytest.mark.parametrize("keep_error", [True, False])
def test_steering_moves_each_row_in_its_own_scale(
    keep_error: bool, mode: str, sae: Dictionary, net: Net, hidden: Tensor, images: Tensor
) -> None:
    _, scale, codes = parts(mode, hidden)
    edited = codes.clone()
    edited[:, 4] = 2.5
    with steer(net, sae, edits={4: ("set", 2.5)}, keep_error=keep_error):
        answers = net(images)
    moved = hidden + scale * ((edited - codes) @ TENSORS["W_dec"]) if keep_error else back(mode, hidden, edited)
    torch.testing.assert_close(answers, net.head(moved), rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("op", ["set", "add", "scale"])
def test_doses_are_what_steering_does(op: str, sae: Dictionary, net: Net, images: Tensor) -> None:
    found = dose_response(
        net, sae, images, latents=[4], doses=[0.5, 2.0], op=op, unit="value", controls=2, resamples=10
    )
    for place, dose in enumerate((0.5, 2.0)):
        with steer(net, sae, edits={4: (op, dose)}):
            expected = net(images).mean(0)
            length = (HookPoints(net, "hidden").read(images)["hidden"]).norm(dim=1)
        assert length.isfinite().all()
        np.testing.assert_allclose(found.curve(4, "logit")[place], expected, rtol=1e-3)


@torch.no_grad()
def test_the_control_of_a_dose_moves_rows_as_far(
    mode: str, sae: Dictionary, net: Net, images: Tensor, hidden: Tensor
) -> None:
    found = dose_response(net, sae, images, latents=[4], doses=[1.0], op="add", unit="value", controls=2, resamples=10)
    expected = float(parts(mode, hidden)[1].mean() * TENSORS["W_dec"][4].norm())
    assert found.of_answers(4, "length")[0] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_ablations_are_what_taking_latents_out_does(sae: Dictionary, net: Net, images: Tensor, labels: Tensor) -> None:
    found = ablation_effects(net, sae, images, labels, latents=[4, 7], controls=1)
    own = net(images)
    for place, latent in enumerate([4, 7]):
        with steer(net, sae, edits={latent: "ablate"}):
            without = net(images)
        for c in range(3):
            of_class = labels == c
            np.testing.assert_allclose(found.logits[place, c], (without - own)[of_class].mean(0), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_reconstruction_is_spliced_in(
    mode: str, sae: Dictionary, net: Net, images: Tensor, labels: Tensor, hidden: Tensor
) -> None:
    answers = net.head(back(mode, hidden, parts(mode, hidden)[2]))
    spliced = splice(net, sae, images, labels).spliced
    assert spliced.cross_entropy == pytest.approx(float(cross_entropy(answers, labels)), rel=1e-3)
    spread = (net(images) - net(images).mean(0)).square().sum()
    kept = fidelity(net, sae, images).spliced
    assert kept.explained == pytest.approx(float(1 - (answers - net(images)).square().sum() / spread), rel=1e-3)


@torch.no_grad()
def test_the_app_moves_a_row_in_its_own_scale(
    mode: str, sae: Dictionary, store: Activations, net: Net, images: Tensor, hidden: Tensor
) -> None:
    network = Network(net, store, sae, ["a", "b", "c"])
    moved = network.moved(network.source(images[:1], "one"), read_edits({4: ("add", 1.0)}, S))
    expected = hidden[:1] + parts(mode, hidden[:1])[1] * TENSORS["W_dec"][4]
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-3)


def test_attribution_goes_through_the_normalisation(sae: Dictionary, net: Net, images: Tensor) -> None:
    pytest.importorskip("captum")
    found = attribute(net, sae, images[0], 4, control=None)
    assert np.isfinite(found.map).all()
    assert float(found.map.sum()) == pytest.approx(found.value - found.baseline_value, rel=0.05, abs=0.05)


def test_kept_and_exported_it_is_the_same(mode: str, sae: Dictionary, hidden: Tensor, tmp_path: Path) -> None:
    sae.save(tmp_path / "kept")
    export(sae, tmp_path / "saelens")
    for name in ("kept", "saelens"):
        again = load(tmp_path / name)
        assert (again.row_norm, again.hook_name) == (mode, "hidden")
        assert torch.equal(again(hidden), sae(hidden))


@torch.no_grad()
def test_moved_answers_are_what_steering_does(sae: Dictionary, net: Net, images: Tensor) -> None:
    found = moved_answers(
        net, sae, images, latents=[4], doses=[1.0], op="add", unit="value", rows="flatten", controls=2
    )
    with steer(net, sae, edits={4: ("add", 1.0)}):
        new = net(images)
    own = net(images)
    changes = 1 - torch.cosine_similarity(own, new, dim=1)
    np.testing.assert_allclose(found.examples["change"], changes, rtol=1e-3, atol=1e-5)
