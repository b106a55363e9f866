"""Steering: what the model does inside the block, and that it is what it was afterwards."""

import sys

import pytest
import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.models.hooks import HookPoints
from unweave.steer import steer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hooks_of(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@torch.no_grad()
def test_what_the_model_goes_on_with_by_hand(model, sae, x):
    hidden = HookPoints(model, "hidden").read(x)["hidden"]
    codes = sae.encode(hidden)
    edited = codes.clone()
    edited[:, 3] = 5.0
    expected = model.head(hidden + (edited - codes) @ sae.W_dec)
    with steer(model, sae, edits={3: ("set", 5.0)}) as steering:
        answers = model(x)
    torch.testing.assert_close(answers, expected)
    assert (steering.at, steering.calls, steering.rows, steering.changed) == ("hidden", 1, 40, 40)
    assert repr(steering) == "Steering('hidden', {3: set 5}, 40 of 40 rows changed)"
    with steer(model, sae, edits={3: ("set", 5.0)}, keep_error=False):
        torch.testing.assert_close(model(x), model.head(sae.decode(edited)))


@torch.no_grad()
@pytest.mark.parametrize("edits", [{}, {2: ("add", 0)}, {2: ("scale", 1)}, {2: ("clamp", 0, 1e9)}])
def test_edits_that_change_nothing_change_no_bit(model, sae, x, edits):
    own = model(x)
    with steer(model, sae, edits=edits) as steering:
        assert torch.equal(model(x), own)
        assert HookPoints(model, "hidden").read(x)["hidden"].tolist() == model.hidden(model.first(x)).tolist()
    assert steering.changed == 0


@torch.no_grad()
def test_rows_where_the_latent_is_silent_keep_every_bit(model, sae, x):
    hidden = HookPoints(model, "hidden").read(x)["hidden"]
    silent = sae.encode(hidden)[:, 8] == 0
    assert 0 < silent.sum() < 40
    with steer(model, sae, edits={8: "ablate"}) as steering:
        steered = HookPoints(model, "hidden").read(x)["hidden"]
    assert torch.equal(steered[silent], hidden[silent])
    assert (steered[~silent] != hidden[~silent]).any(1).all()
    assert steering.changed == int((~silent).sum())


@torch.no_grad()
def test_the_reconstruction_is_spliced_in_without_edits_and_error(model, sae, x):
    hidden = HookPoints(model, "hidden").read(x)["hidden"]
    with steer(model, sae, edits={}, keep_error=False):
        assert torch.equal(model(x), model.head(sae(hidden)))


@torch.no_grad()
def test_moves_of_several_latents_add_up(model, sae, x):
    def moved(edits: dict) -> torch.Tensor:
        with steer(model, sae, edits=edits):
            return HookPoints(model, "hidden").read(x)["hidden"]

    own = moved({})
    one, other, both = moved({1: ("add", 2)}), moved({7: ("set", 1)}), moved({1: ("add", 2), 7: ("set", 1)})
    torch.testing.assert_close(both - own, (one - own) + (other - own))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_model_is_what_it_was_whatever_happens_inside(model, sae, x, error):
    model.train()
    before, own = hash_module(model), model(x)

    def fail() -> None:
        with steer(model, sae, edits={3: ("set", 5.0)}):
            assert not torch.equal(model(x), own)
            raise error

    with pytest.raises(error):
        fail()
    assert torch.equal(model(x), own)
    assert hooks_of(model) == 0
    assert hash_module(model) == before
    assert model.training


def test_a_block_in_a_generator_that_nobody_finishes(model, sae, x):
    def steered():
        with steer(model, sae, edits={3: ("set", 5.0)}):
            yield model(x)
            yield model(x)

    answers = steered()
    next(answers)
    assert hooks_of(model) > 0
    answers.close()
    assert hooks_of(model) == 0


def test_an_error_of_the_model_itself_leaves_nothing_behind(model, sae, x):
    with steer(model, sae, edits={3: ("set", 5.0)}):
        with pytest.raises(RuntimeError):
            model(x[:, :3])
        steered = model(x)
    assert hooks_of(model) == 0
    assert not torch.equal(model(x), steered)


def test_other_hooks_stay_and_see_what_was_made_of_it(model, sae, x):
    before, after = [], []
    first = model.hidden.register_forward_hook(lambda module, inputs, output: before.append(output))
    with steer(model, sae, edits={3: ("set", 5.0)}):
        last = model.hidden.register_forward_hook(lambda module, inputs, output: after.append(output))
        model(x)
    model(x)
    assert len(before) == len(after) == 2
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    first.remove()
    last.remove()


@torch.no_grad()
def test_nested_blocks_at_one_point_and_at_several(model, make_sae, x):
    sae, early = make_sae(6, 10), make_sae(6, 8, seed=1)
    with steer(model, sae, at="hidden", edits={3: ("add", 1.0)}), steer(model, sae, at="hidden", edits={5: ("add", 2)}):
        twice = HookPoints(model, "hidden").read(x)["hidden"]
    with steer(model, sae, at="hidden", edits={3: ("add", 1.0)}):
        once = HookPoints(model, "hidden").read(x)["hidden"]
    torch.testing.assert_close(twice, once + 2 * sae.W_dec[5])
    with (
        steer(model, early, at="first", edits={1: ("add", 3.0)}),
        steer(model, sae, at="hidden", edits={5: ("add", 2)}),
    ):
        both = model(x)
    shifted = model.hidden(model.first(x) + 3 * early.W_dec[1])
    torch.testing.assert_close(both, model.head(shifted + 2 * sae.W_dec[5]))
    assert hooks_of(model) == 0


class Tokens(nn.Module):
    """Tokens [b, 5, 6] and a feature map [b, 6, 2, 3] of an image [b, 4]; the answer is their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 66)
        self.tokens, self.map = nn.Identity(), nn.Identity()
        with torch.no_grad():
            self.linear.weight.copy_(drawn(66, 4, seed=5))
            self.linear.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        every = self.linear(x)
        tokens, places = self.tokens(every[:, :30].view(-1, 5, 6)), self.map(every[:, 30:].view(-1, 6, 2, 3))
        return torch.stack([tokens.sum((1, 2)), places.sum((1, 2, 3))], 1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("at", "rows", "places"), [("tokens", "position", 5), ("tokens", "cls", 1), ("map", "position", 6)]
)
def test_each_place_is_moved(make_sae, x, at, rows, places):
    model, sae = Tokens(), make_sae(6, 10)
    column = 0 if at == "tokens" else 1
    own = model(x)
    with steer(model, sae, at=at, rows=rows, edits={2: ("add", 1.5)}) as steering:
        moved = model(x) - own
    torch.testing.assert_close(moved[:, column], (1.5 * places * sae.W_dec[2].sum()).expand(40), rtol=1e-4, atol=1e-4)
    assert torch.equal(moved[:, 1 - column], torch.zeros(40))
    assert steering.rows == 40 * places


@torch.no_grad()
@pytest.mark.parametrize(("at", "places"), [("tokens", 5), ("map", 6)])
def test_a_pooled_row_moves_every_place_by_as_much(make_sae, x, at, places):
    model, sae = Tokens(), make_sae(6, 10)
    points = HookPoints(model, at)
    own = points.read(x)[at]
    with steer(model, sae, at=at, rows="pool", edits={2: ("add", 1.5)}):
        moved = HookPoints(model, at).read(x)[at] - own
    each = moved if at == "tokens" else moved.flatten(2).transpose(1, 2)
    torch.testing.assert_close(each, (1.5 * sae.W_dec[2]).expand(40, places, 6), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", ["position", "pool", "flatten", "cls"])
def test_any_precision_comes_back_in_the_same(make_sae, x, dtype, rows):
    model = Tokens().to(dtype)
    sae = make_sae(30 if rows == "flatten" else 6, 10)
    hidden = HookPoints(model, "tokens").read(x.to(dtype))["tokens"]
    with steer(model, sae, at="tokens", rows=rows, edits={8: "ablate"}):
        assert model(x.to(dtype)).dtype == dtype
        moved = HookPoints(model, "tokens").read(x.to(dtype))["tokens"]
    assert moved.dtype == dtype
    same = (moved == hidden).flatten(1).all(1)
    assert not same.all()
    if rows != "position":
        assert same.any(), "rows where the latent is silent keep every bit in any precision"


def test_gradients_flow_through_the_edit(model, sae, x):
    x = x.clone().requires_grad_()
    with steer(model, sae, edits={1: ("scale", 2.0), 5: "ablate"}):
        model(x).sum().backward()
    hidden = model.hidden(model.first(x2 := x.detach().clone().requires_grad_()))
    codes = sae.encode(hidden)
    moved = hidden + codes[:, 1:2] * sae.W_dec[1] - codes[:, 5:6] * sae.W_dec[5]
    model.head(moved).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)


@torch.no_grad()
def test_what_the_module_is_given(model, sae, x):
    with steer(model, sae, at="head", side="input", edits={3: ("set", 5.0)}):
        given = model(x)
    with steer(model, sae, at="hidden", edits={3: ("set", 5.0)}):
        assert torch.equal(model(x), given)


@torch.no_grad()
def test_many_rows_are_encoded_in_parts(model, sae, x, monkeypatch):
    with steer(model, sae, edits={3: ("set", 5.0), 4: "ablate"}) as whole:
        expected = model(x)
    monkeypatch.setattr(sys.modules["unweave.steer.context"], "_CODE_BYTES", 7 * 4 * 10)
    with steer(model, sae, edits={3: ("set", 5.0), 4: "ablate"}) as parts:
        torch.testing.assert_close(model(x), expected)
    assert (parts.rows, parts.changed) == (whole.rows, whole.changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "hiden"}, "no module 'hiden': did you mean 'hidden'"),
        ({"at": "h*"}, "stands for 2 modules"),
        ({"edits": {10: "ablate"}}, "no latent 10"),
    ],
)
def test_what_cannot_be_is_refused_on_entry(model, sae, options, message):
    with pytest.raises(InputError, match=message), steer(model, sae, **({"edits": {}} | options)):
        pytest.fail("the block ran")
    assert hooks_of(model) == 0


def test_a_dictionary_without_a_hook_point_needs_one(model, make_sae, x):
    with pytest.raises(InputError, match="name the module, at="), steer(model, make_sae(6, 10), edits={}):
        pytest.fail("the block ran")
    refused = pytest.raises(InputError, match="gives rows of width 3 with rows='flatten', the dictionary takes 6")
    with steer(model, make_sae(6, 10), at="head", edits={}), refused:
        model(x)


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_model_and_dictionary_on_devices_of_their_own(model, sae, x, where):
    with steer(model, sae, edits={3: ("set", 5.0)}):
        expected = model(x)
    with steer(model.cuda(), sae.to(where), edits={3: ("set", 5.0)}):
        torch.testing.assert_close(model(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-4)
