"""Hook points: names and globs, what is read, where the pass stops, and the model left as it was."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints, resolve


class Counting(nn.Module):
    """Adds `step` and counts its calls."""

    def __init__(self, step: float = 1.0) -> None:
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.step


def chain(n: int = 3) -> nn.Sequential:
    return nn.Sequential(*[Counting(10.0**i) for i in range(n)])


def nested() -> nn.Module:
    model = nn.Module()
    model.layer1 = nn.Sequential(nn.ModuleDict({"conv1": nn.Identity(), "relu": nn.Identity()}))
    model.layer2 = nn.Sequential(nn.ModuleDict({"conv1": nn.Identity()}), nn.ModuleDict({"conv1": nn.Identity()}))
    return model


@pytest.mark.parametrize(
    ("at", "names"),
    [
        ("layer1.0.relu", ["layer1.0.relu"]),
        ("layer*.conv1", ["layer1.0.conv1", "layer2.0.conv1", "layer2.1.conv1"]),
        (["layer2.?.conv1", "layer1"], ["layer1", "layer2.0.conv1", "layer2.1.conv1"]),
        (["layer2.1.conv1", "layer2.1.*"], ["layer2.1.conv1"]),
        ("", [""]),
    ],
)
def test_names_and_globs_stand_for_modules_in_the_models_order(at, names):
    assert resolve(nested(), at) == names


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("layer1.0.rule", r"no module 'layer1.0.rule': did you mean 'layer1.0.relu'"),
        (["layer1", "conv*"], r"no module 'conv\*'"),
        ("LAYER1", "no module 'LAYER1'"),
        ([], "names no hook point"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_with_the_closest(at, message):
    with pytest.raises(InputError, match=message):
        resolve(nested(), at)


def test_values_by_hand_on_both_sides():
    x = torch.zeros(2, 3)
    assert {k: v[0, 0].item() for k, v in HookPoints(chain(), ["0", "2"]).read(x).items()} == {"0": 1.0, "2": 111.0}
    assert {k: v[0, 0].item() for k, v in HookPoints(chain(), "*", side="input").read(x).items()} == {
        "0": 0.0,
        "1": 1.0,
        "2": 11.0,
    }


@pytest.mark.parametrize(("side", "calls"), [("output", [3, 3, 1]), ("input", [3, 1, 1])])
def test_from_the_second_batch_on_nothing_after_the_last_hook_point_runs(side, calls):
    model = chain()
    points = HookPoints(model, ["0", "1"], side=side)
    for _ in range(3):
        points.read(torch.zeros(1, 1))
    assert [module.calls for module in model] == calls


class Swallows(nn.Module):
    """Catches what goes wrong in its first part and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Counting(), Counting()

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.first(x)
        except Exception as error:
            raise RuntimeError("something went wrong") from error
        return self.second(x)


def test_a_model_that_catches_exceptions_is_stopped_all_the_same():
    model = Swallows()
    points = HookPoints(model, "first")
    values = [points.read(torch.full((1, 1), float(i)))["first"].item() for i in range(3)]
    assert values == [1.0, 2.0, 3.0]
    assert model.second.calls == 1


@pytest.mark.parametrize("at", [["0"], ["0", "2"]])
def test_a_later_in_place_module_does_not_change_what_was_read(at):
    model = nn.Sequential(Counting(), nn.ReLU(inplace=True), Counting())
    points = HookPoints(model, at)
    for _ in range(3):
        assert points.read(torch.tensor([[-5.0, 5.0]]))["0"].tolist() == [[-4.0, 6.0]]


def test_what_was_read_has_no_gradient_and_does_not_change_with_the_next_batch():
    points = HookPoints(nn.Sequential(nn.Linear(2, 2)), "0")
    first = points.read(torch.ones(1, 2))
    kept = first["0"].clone()
    assert not first["0"].requires_grad
    points.read(torch.zeros(1, 2))
    assert torch.equal(first["0"], kept)


class Loops(nn.Module):
    """Calls `block` as often as the input's first number says."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.unused = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x[0, 0])):
            x = self.block(x)
        return x


@pytest.mark.parametrize(("at", "said"), [("block", "calls the module 'block' 2 times"), ("unused", "never calls")])
def test_a_module_without_a_single_value_is_refused(at, said):
    with pytest.raises(InputError, match=said):
        HookPoints(Loops(), at).read(torch.full((1, 1), 2.0))


def test_a_module_that_a_later_batch_does_not_reach_is_refused():
    points = HookPoints(Loops(), "block")
    assert points.read(torch.ones(1, 1))["block"].item() == 1
    with pytest.raises(InputError, match="never calls the module 'block'"):
        points.read(torch.zeros(1, 1))


class Gives(nn.Module):
    """Gives whatever it was told to."""

    def __init__(self, make) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = make

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return x


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: (x, "attention weights"),
        lambda x: [x, None],
        lambda x: SimpleNamespace(last_hidden_state=x, pooler_output=None),
        lambda x: ((x, None), 7),
        lambda x: {"out": x, "size": 7},
        lambda x: ({"out": x},),
    ],
    ids=["tensor", "tuple", "list", "model-output", "tuple-of-tuple", "mapping", "tuple-of-mapping"],
)
def test_the_tensor_of_a_modules_value(make):
    assert HookPoints(Gives(make), "inner").read(torch.full((1, 1), 3.0))["inner"].item() == 3


@pytest.mark.parametrize(
    "make",
    [lambda x: None, lambda x: (), lambda x: {"a": x, "b": x}, lambda x: {}, lambda x: ("a", x)],
    ids=["none", "empty", "dict", "empty-dict", "text"],
)
def test_a_value_without_a_tensor_is_refused(make):
    with pytest.raises(InputError, match="'inner' gives a"):
        HookPoints(Gives(make), "inner").read(torch.zeros(1, 1))


class Keywords(nn.Module):
    """Calls its layer with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, *, pixels: Tensor) -> Tensor:
        return self.layer(input=pixels)


def test_keyword_inputs_are_read_too():
    x = torch.rand(3, 2)
    points = HookPoints(Keywords(), "layer", side="input")
    for _ in range(2):
        assert torch.equal(points.read(pixels=x)["layer"], x)


def test_a_module_without_inputs_has_none_to_read():
    model = Gives(lambda x: x)
    model.forward = lambda x: model.inner.__call__()
    model.inner.forward = lambda: torch.zeros(1, 1)
    with pytest.raises(InputError, match="not a tensor"):
        HookPoints(model, "inner", side="input").read(torch.zeros(1, 1))


class Fails(nn.Module):
    """Fails when it is given a negative number."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()):
            raise RuntimeError("negative")
        return x


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("side", ["output", "input"])
def test_the_model_is_left_as_it_was_even_when_it_fails(side):
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2), Fails(), nn.Linear(2, 2)).train()
    model[1].eval()
    model[3].register_forward_hook(lambda *_: None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = HookPoints(model, ["0", "3"], side=side)
    modes = [True, True, False, True, True]
    for value in (1.0, 1.0, -1.0):
        if value > 0:
            assert torch.equal(points.read(torch.full((4, 2), value))["0"], torch.ones(4, 2))  # dropout is off
        else:
            with pytest.raises(RuntimeError, match="negative"):
                points.read(torch.full((4, 2), value))
        assert [module.training for module in model.modules()] == modes
        assert hook_count(model) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_users_own_hook_acts_before_the_value_is_read():
    model = chain(1)
    model[0].register_forward_hook(lambda _m, _i, out: out * 2)
    assert HookPoints(model, "0").read(torch.ones(1, 1))["0"].item() == 4


def test_a_glob_passes_over_modules_that_only_hold_others() -> None:
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.ReLU())
    assert resolve(model, ["*"]) == ["0.0", "0.1", "1"]
    assert resolve(model, "0") == ["0"]
    with pytest.raises(InputError, match=r"no module '\?\?'"):
        resolve(model, "??")


def test_what_cannot_be_read_is_refused_before_anything_runs():
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for model, at in ((torch.jit.script(plain), "0"), (nn.Sequential(torch.jit.script(plain)), "0.1")):
        with pytest.raises(InputError, match=f"'{at}' is a scripted module"):
            resolve(model, at)
    assert resolve(nn.Sequential(nn.ReLU(), torch.jit.script(plain)), "0") == ["0"]
    with pytest.raises(InputError, match="'weight' is on the meta device"):
        resolve(nn.Linear(2, 2, device="meta"), "")
    with pytest.raises(InputError, match=r"'0\.weight' has no shape before the first pass"):
        resolve(nn.Sequential(nn.LazyLinear(2)), "0")
