"""What a model loses when a latent goes: against a linear head, against taking it out for real, the artifact."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints
from unweave.steer import ablation_effects, load_ablations, steer


@torch.no_grad()
def test_a_linear_head_loses_what_the_latent_gave_it(model, sae, x, labels):
    found = ablation_effects(model, sae, x, labels)
    codes = sae.encode(HookPoints(model, "hidden").read(x)["hidden"])
    for c in range(3):
        expected = -codes[labels == c].mean(0)[:, None] * (sae.W_dec @ model.head.weight.T)
        np.testing.assert_allclose(found.logits[:, c], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found.active[:, c], (codes[labels == c] > 0).sum(0))
    assert found.examples.tolist() == [14, 13, 13]
    assert found.latents.tolist() == list(range(10))
    assert found.class_names == ["0", "1", "2"]


class Tokens(nn.Module):
    """Five tokens [b, 5, 6] (`tokens`), then a nonlinear answer; the sum of the inputs may pass them by."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        self.linear, self.tokens, self.head = nn.Linear(4, 30), nn.Identity(), nn.Linear(30, 3)
        self.skips = skips
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(self.linear(x).view(-1, 5, 6))
        return self.head(torch.tanh(tokens).flatten(1)) + (x.sum(1, keepdim=True) ** 2 if self.skips else 0)


@torch.no_grad()
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("rows", ["position", "pool", "cls", "flatten"])
def test_it_is_what_taking_each_latent_out_does(make_sae, x, labels, rows, skips):
    model, sae = Tokens(skips=skips), make_sae(30 if rows == "flatten" else 6, 10)
    found = ablation_effects(model, sae, x, labels, at="tokens", rows=rows, latents=[8, 1, 9, 2], batch_size=16)
    own = model(x)
    for place, latent in enumerate([8, 1, 9, 2]):
        with steer(model, sae, at="tokens", rows=rows, edits={latent: "ablate"}):
            without = model(x)
        for c in range(3):
            of_class = labels == c
            np.testing.assert_allclose(found.logits[place, c], (without - own)[of_class].mean(0), rtol=1e-3, atol=1e-5)
            rise = cross_entropy(without[of_class], labels[of_class]) - cross_entropy(own[of_class], labels[of_class])
            assert found.loss[place, c] == pytest.approx(float(rise), rel=1e-3, abs=1e-5)
            assert found.active[place, c] == int((without != own)[of_class].any(1).sum())


def test_the_costliest_latents_first(model, sae, x, labels):
    found = ablation_effects(model, sae, x, labels, class_names=["a", "b", "c"])
    assert found.important(most=3).tolist() == np.argsort(-found.total_loss)[:3].tolist()
    assert found.important("b", most=2).tolist() == np.argsort(-found.loss[:, 1])[:2].tolist()
    assert found.total_loss == pytest.approx(found.loss @ [14 / 40, 13 / 40, 13 / 40])
    with pytest.raises(InputError, match="no class 'd'; choose from: a, b, c"):
        found.important("d")


@torch.no_grad()
def test_the_control_moves_rows_as_far_along_random_directions(model, sae, x, labels):
    found = ablation_effects(model, sae, x, labels, controls=200, seed=1)
    assert (found.control[found.active == 0] == 0).all()
    hidden = HookPoints(model, "hidden").read(x)["hidden"]
    lengths = sae.encode(hidden)[:, 4:5] * sae.W_dec[4].norm()
    drawn = torch.randn(2000, 1, 6, generator=torch.Generator().manual_seed(3))
    moved = hidden - lengths * nn.functional.normalize(drawn, dim=2)
    own = cross_entropy(model.head(hidden), labels)
    rises = torch.stack([cross_entropy(logits, labels) for logits in model.head(moved)]) - own
    error = float(rises.std()) / 200**0.5
    assert float(rises.mean()) > 2 * error, "along random directions a convex loss rises"
    assert abs(found.total_control[4] - float(rises.mean())) < 4 * error
    assert np.isnan(ablation_effects(model, sae, x, labels, controls=0).control).all()
    again = ablation_effects(model, sae, x, labels, controls=200, seed=1, batch_size=9)
    np.testing.assert_allclose(again.control, found.control, rtol=1e-4, atol=1e-7)


def test_many_copies_go_through_in_parts(model, sae, x, labels, monkeypatch):
    whole = ablation_effects(model, sae, x, labels)
    monkeypatch.setattr(sys.modules["unweave.steer.ablations"], "_VALUES_AT_ONCE", 6 * 7)
    parts = ablation_effects(model, sae, x, labels)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(parts.active, whole.active)


def test_the_artifact_is_read_back(model, sae, x, labels, tmp_path):
    found = ablation_effects(model, sae, x, labels, out=tmp_path / "ablations")
    for again in (
        ablation_effects(model, sae, x, labels, out=tmp_path / "ablations"),
        load_ablations(tmp_path / "ablations"),
    ):
        for name in ("latents", "examples", "active", "loss", "control", "logits"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert again.class_names == found.class_names
    with pytest.raises(InputError, match="made from other settings"):
        ablation_effects(model, sae, x, labels, latents=[1], out=tmp_path / "ablations")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": [10]}, "no latent 10"),
        ({"latents": []}, "name each latent once"),
        ({"latents": [1, 1]}, "name each latent once"),
        ({"controls": -1}, "controls must not be negative"),
        ({"labels": None}, "give labels="),
        ({"class_names": ["a"]}, "1 class names; the model answers with 3"),
    ],
)
def test_what_cannot_be_is_refused(model, sae, x, labels, options, message):
    with pytest.raises(InputError, match=message):
        ablation_effects(model, sae, x, **({"labels": labels} | options))


def test_a_table_that_no_memory_holds_is_refused(make_sae, x):
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2000))
    with pytest.raises(InputError, match="name fewer latents"):
        ablation_effects(model, make_sae(6, 100), x, [0] * 40, at="0")
