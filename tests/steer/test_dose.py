"""Dose–response: exact on a linear head, its bands and control, pictures, the artifact, and what is refused."""

import dataclasses
import inspect
import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints
from unweave.steer import Response, dose_response, steer

FAST = {"controls": 4, "resamples": 50}


class Decoder(nn.Module):
    """A picture [1, 2, 3] that is the row."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, 1, 2, 3)


@pytest.fixture
def hidden(model, x):
    return HookPoints(model, "hidden").read(x)["hidden"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("op", "doses", "step"),
    [
        ("set", (0.0, 0.5, 2.0), lambda f, d: d * f.max() - f),
        ("add", (-1.0, 0.0, 1.0), lambda f, d: d * f.max() + 0 * f),
        ("scale", (0.0, 1.0, 3.0), lambda f, d: (d - 1) * f),
    ],
)
def test_a_linear_head_answers_in_proportion(model, sae, x, hidden, op, doses, step):
    response = dose_response(model, sae, x, latents=[9, 1], doses=doses, op=op, batch_size=16, **FAST)
    for latent in (9, 1):
        f = sae.encode(hidden)[:, latent]
        along = sae.W_dec[latent] @ model.head.weight.T
        for place, dose in enumerate(doses):
            moved = model.head(hidden) + step(f, dose)[:, None] * along
            np.testing.assert_allclose(response.curve(latent, "logit")[place], moved.mean(0), rtol=1e-4, atol=1e-5)
            change = (step(f, dose).mean() * along).numpy()
            np.testing.assert_allclose(response.curve(latent, "logit_change")[place], change, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(
                response.curve(latent, "probability")[place], moved.softmax(1).mean(0), rtol=1e-4, atol=1e-5
            )
            changed = (moved.argmax(1) != model.head(hidden).argmax(1)).float().mean()
            assert response.of_answers(latent, "changed")[place] == pytest.approx(float(changed))
            length = step(f, dose).abs().mean() * sae.W_dec[latent].norm()
            assert response.of_answers(latent, "length")[place] == pytest.approx(float(length), rel=1e-4)
        assert response.of_answers(latent, "value") == pytest.approx(
            [dose * (1 if op == "scale" else float(f.max())) for dose in doses]
        )


@torch.no_grad()
@pytest.mark.parametrize(("op", "dose", "edit"), [("set", 2.5, "set"), ("add", -1.0, "add"), ("scale", 0.0, "scale")])
def test_it_is_what_steering_does(model, make_sae, x, op, dose, edit):
    class Nonlinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.tokens, self.head = model.first, nn.Identity(), model.head

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            places = self.first(inputs)[:, None] * torch.tensor([1.0, -1.0])[None, :, None]
            return self.head(torch.tanh(self.tokens(places)).prod(1)) + inputs.sum(1, keepdim=True)

    net, sae = Nonlinear(), make_sae(6, 10)
    for rows in ("position", "cls", "pool"):
        found = dose_response(
            net, sae, x, at="tokens", rows=rows, latents=[1], doses=[dose], op=op, unit="value", **FAST
        )
        with steer(net, sae, at="tokens", rows=rows, edits={1: (edit, dose)}):
            np.testing.assert_allclose(found.curve(1, "logit")[0], net(x).mean(0), rtol=1e-4, atol=1e-5)


def test_a_dose_that_changes_nothing_has_no_band_and_no_control(model, sae, x):
    response = dose_response(model, sae, x, latents=[1], doses=[0, 1], op="add", unit="value", **FAST)
    for name in response.table.column_names:
        if "change" in name:
            assert response.curve(1, name)[0] == pytest.approx(np.zeros(3), abs=1e-7), name
            assert not np.allclose(response.curve(1, name)[1], 0), name
    assert response.of_answers(1, "changed")[0] == response.of_answers(1, "control_changed_high")[0] == 0


@torch.no_grad()
def test_the_control_is_the_same_length_along_random_directions(model, sae, x, hidden):
    response = dose_response(
        model, sae, x, latents=[1], doses=[1, 2], op="add", unit="value", controls=2000, resamples=2
    )
    # A linear head: length · (u · w_c) for u on the sphere of six dimensions has variance length² ‖w_c‖² / 6.
    spread = sae.W_dec[1].norm() * model.head.weight.norm(dim=1) / 6**0.5
    low, high = (response.curve(1, f"control_logit_change_{end}") for end in ("low", "high"))
    half = (high - low) / 2
    np.testing.assert_allclose(half[1], 2 * half[0], rtol=1e-4)
    # The middle 95 % of one coordinate on that sphere: ±0.754 = ±1.848 standard deviations (Student's t, 5 degrees).
    np.testing.assert_allclose(half[0], 1.848 * spread, rtol=0.06)
    assert np.abs(response.curve(1, "control_logit_change")[0]).max() < 0.1 * float(spread.max())


def test_bands_hold_the_mean_and_shrink_with_examples(model, sae, x):
    few = dose_response(model, sae, x, latents=[1], doses=[0], controls=1)
    many = dose_response(model, sae, x.repeat(4, 1), latents=[1], doses=[0], controls=1)

    def width(response: Response, name: str) -> np.ndarray:
        low, mean, high = (response.curve(1, f"{name}{end}") for end in ("_low", "", "_high"))
        assert (low <= mean).all()
        assert (mean <= high).all()
        return high - low

    for name in ("logit", "logit_change", "probability", "probability_change"):
        np.testing.assert_allclose(width(few, name) / width(many, name), 2.0, rtol=0.2)


def test_accuracy_at_each_dose_where_labels_are_known(model, sae, x, labels):
    with torch.no_grad():
        own = model(x).argmax(1)
    response = dose_response(model, sae, x, latents=[1], doses=[1], op="scale", labels=own, **FAST)
    assert response.of_answers(1, "accuracy").tolist() == [1.0]
    assert "accuracy" not in dose_response(model, sae, x, latents=[1], doses=[1], **FAST).answers.column_names
    named = dose_response(model, sae, x, latents=[1], doses=[1], labels=labels, class_names=["a", "b", "c"], **FAST)
    assert named.class_names == ["a", "b", "c"]
    assert isinstance(named.figure(1), Figure)


@torch.no_grad()
def test_pictures_are_means_of_what_the_decoder_draws(model, sae, x, hidden):
    for decoder in (Decoder(), lambda rows: rows.view(-1, 1, 2, 3)):
        response = dose_response(
            model, sae, x, latents=[9, 1], doses=[0, 3], unit="value", decoder=decoder, batch_size=16, **FAST
        )
        f = sae.encode(hidden)[:, 1:2]
        moved = hidden + (3 - f) * sae.W_dec[1]
        np.testing.assert_allclose(response.pictures(1)[1], moved.mean(0).view(1, 2, 3), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(response.unedited_picture, hidden.mean(0).view(1, 2, 3), rtol=1e-5, atol=1e-6)
    assert dose_response(model, sae, x, latents=[1], **FAST).pictures(1) is None


def test_the_strongest_effects(model, sae, x):
    response = dose_response(model, sae, x, latents=[9, 1, 4], controls=20, resamples=50)
    effects = response.strongest()
    assert {effect.latent for effect in effects} == {9, 1, 4}
    for effect in effects:
        change = response.curve(effect.latent, "logit_change")
        assert effect.dose == 2.0
        assert abs(effect.change) == pytest.approx(np.abs(change[-1]).max())
        assert effect.class_name == str(np.abs(change[-1]).argmax())
        assert effect.band[0] <= effect.change <= effect.band[1]
        assert effect.beyond == (effect.band[0] > effect.control[1] or effect.band[1] < effect.control[0])
    margins = [abs(effect.change) - max(map(abs, effect.control)) for effect in effects]
    assert margins == sorted(margins, reverse=True)


def test_the_artifact_is_read_back_and_not_made_again(model, sae, x, tmp_path):
    out = tmp_path / "response"
    options = {"latents": [9, 1], "doses": [0.0, 1.0], "decoder": Decoder(), **FAST}
    made = dose_response(model, sae, x, out=out, **options)
    before = (out / "manifest.json").stat().st_mtime_ns
    again = dose_response(model, sae, x, out=out, **options)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    read = Response(out)
    assert read.table.equals(made.table)
    assert again.answers.equals(made.answers)
    assert (read.latents, read.doses, read.op, read.unit, read.n) == ([9, 1], [0.0, 1.0], "set", "max", 40)
    assert read.table.num_rows == 2 * 2 * 3
    assert np.array_equal(read.pictures(9), made.pictures(9))
    with pytest.raises(InputError, match="made from other settings"):
        dose_response(model, sae, x, out=out, **(options | {"seed": 1}))
    with pytest.raises(InputError, match="a decoder whose pictures are kept must be a"):
        dose_response(model, sae, x, out=tmp_path / "other", **(options | {"decoder": lambda rows: rows}))


def test_a_killed_measurement_leaves_nothing_and_is_made_whole_then(model, sae, x, tmp_path, monkeypatch):
    out = tmp_path / "response"
    whole = dose_response(model, sae, x, latents=[1], **FAST)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["unweave.steer.curves"], "mean_band", killed)
        with pytest.raises(KeyboardInterrupt):
            dose_response(model, sae, x, latents=[1], out=out, **FAST)
    assert not out.exists()
    assert not list(tmp_path.iterdir())
    assert dose_response(model, sae, x, latents=[1], out=out, **FAST).table.equals(whole.table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": []}, "at least one latent, each once"),
        ({"latents": [1, 1]}, "at least one latent, each once"),
        ({"latents": [10]}, "no latent 10"),
        ({"latents": [1, 2]}, "never active on these examples: latents 2"),
        ({"doses": []}, "finite numbers, at least one"),
        ({"doses": [0, float("nan")]}, "finite numbers"),
        ({"doses": [1, 0]}, "doses must increase"),
        ({"controls": 0}, "at least 1, got 0"),
        ({"class_names": ["a"]}, "1 class names; the model answers with 3"),
        ({"at": "head"}, "width 3"),
        ({"decoder": nn.Identity()}, r"the decoder gives \[40, 6\] for 40 rows; pictures are \[n, c, h, w\]"),
    ],
)
def test_what_cannot_be_is_refused(model, sae, x, options, message):
    with pytest.raises(InputError, match=message):
        dose_response(model, sae, x, **({"latents": [1], **FAST} | options))


@pytest.mark.parametrize(("name", "value"), [("op", "put"), ("unit", "most")])
def test_an_unknown_operation_is_refused(model, sae, x, name, value):
    undecorated = inspect.unwrap(dose_response)
    with pytest.raises(InputError, match=f"{name}='{value}' is none of"):
        undecorated(model, sae, x, latents=[1], **{name: value})


def test_what_was_not_moved_has_no_curve(model, sae, x):
    response = dose_response(model, sae, x, latents=[1], **FAST)
    with pytest.raises(InputError, match="latent 3 was not moved; these were: 1"):
        response.figure(3)
    with pytest.raises(InputError, match="no column 'logits'"):
        response.curve(1, "logits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        response.folder = "elsewhere"
    response.figure(1).savefig(io.BytesIO(), format="png")


@pytest.mark.gpu
def test_on_a_gpu(model, sae, x, labels):
    options = {"latents": [9, 1], "labels": labels, "decoder": Decoder(), **FAST}
    here = dose_response(model, sae, x, **options)
    there = dose_response(model.cuda(), sae.cuda(), x, **options)
    for name in here.table.column_names:
        np.testing.assert_allclose(here.table[name], there.table[name], rtol=1e-3, atol=1e-3)
