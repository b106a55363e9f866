"""Replacing what modules give or take: which member, how often, and what is left behind."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints
from unweave.models.replace import replacing, resolve_one

X = torch.arange(6.0).view(2, 3)


class Pair(NamedTuple):
    first: Tensor
    second: str


@dataclass
class Output(OrderedDict):
    """As transformers' outputs are: a mapping and a dataclass at once."""

    last_hidden_state: Tensor = None
    pooler_output: str = ""

    def __post_init__(self) -> None:
        self["last_hidden_state"], self["pooler_output"] = self.last_hidden_state, self.pooler_output

    def __setattr__(self, name: str, value: object) -> None:
        if name in self:
            super().__setitem__(name, value)
        super().__setattr__(name, value)


class Giving(nn.Module):
    """Its inner module gives what `wrap` makes of its input; the model gives that as it comes."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = wrap

    def forward(self, x: Tensor) -> object:
        return self.inner(x)


def plus_one(tensor: Tensor) -> Tensor:
    return tensor + 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, "kept"),
        lambda x: [x, "kept"],
        lambda x: Pair(x, "kept"),
    ],
)
def test_the_other_members_of_a_tuple_stay(wrap):
    model = Giving(wrap)
    with replacing(model, {"inner": plus_one}):
        given = model(X)
    assert type(given) is type(wrap(X))
    assert torch.equal(given[0], X + 1)
    assert given[1] == "kept"


def test_the_other_members_of_a_model_output_stay():
    whole = Output(X, "kept")
    model = Giving(lambda x: whole)
    with replacing(model, {"inner": plus_one}):
        given = model(X)
    assert isinstance(given, Output)
    assert torch.equal(given.last_hidden_state, X + 1)
    assert torch.equal(given["last_hidden_state"], X + 1)
    assert given.pooler_output == "kept"
    assert torch.equal(whole.last_hidden_state, X), "the module's own output was written into"


def test_the_tensor_of_a_mapping_and_of_a_tuple_in_a_tuple_is_replaced_where_it_is():
    whole = {"out": X, "size": 7}
    model = Giving(lambda x: whole)
    with replacing(model, {"inner": plus_one}):
        given = model(X)
    assert (list(given), given["size"]) == (["out", "size"], 7)
    assert torch.equal(given["out"], X + 1)
    assert torch.equal(whole["out"], X), "the module's own mapping was written into"
    with replacing(inside := Giving(lambda x: (Pair(x, "kept"), 7)), {"inner": plus_one}):
        (pair, rest) = inside(X)
    assert (type(pair), pair.second, rest) == (Pair, "kept", 7)
    assert torch.equal(pair.first, X + 1)


def test_the_same_tensor_leaves_the_value_itself():
    whole = (X, "kept")
    model = Giving(lambda x: whole)
    with replacing(model, {"inner": lambda tensor: tensor}):
        assert model(X) is whole


def test_a_value_without_a_tensor_is_refused():
    model = Giving(lambda x: "text")
    with replacing(model, {"inner": plus_one}), pytest.raises(InputError, match="'inner' gives a str, not a tensor"):
        model(X)


class Called(nn.Module):
    """Calls its part as often, and in the way, that it is told."""

    def __init__(self, times: int = 1, way: str = "position") -> None:
        super().__init__()
        self.part, self.unused, self.times, self.way = Part(), nn.Identity(), times, way

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.part(x, 10) if self.way == "position" else self.part(x=x, step=10)
        return x


class Part(nn.Module):
    def forward(self, x: Tensor, step: int) -> Tensor:
        return 2 * x + step


@pytest.mark.parametrize("way", ["position", "keyword"])
def test_the_first_input_however_it_is_given(way):
    model = Called(way=way)
    with replacing(model, {"part": plus_one}, side="input"):
        assert torch.equal(model(X), 2 * (X + 1) + 10)
    assert torch.equal(model(X), 2 * X + 10)


def test_a_module_without_an_input_is_refused():
    class Source(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = nn.Module()
            self.constant.forward = lambda: X

        def forward(self) -> Tensor:
            return self.constant()

    with replacing(model := Source(), {"constant": plus_one}):
        assert torch.equal(model(), X + 1)
    refused = pytest.raises(InputError, match="called without an input; replace what it gives")
    with replacing(model, {"constant": plus_one}, side="input"), refused:
        model()


@pytest.mark.parametrize("side", ["output", "input"])
def test_a_module_that_a_pass_never_calls_or_calls_twice_is_refused(side):
    with replacing(model := Called(times=2), {"part": plus_one}, side=side):
        for _ in range(2):
            with pytest.raises(InputError, match="calls the module 'part' more than once"):
                model(X)
    with replacing(model, {"unused": plus_one}, side=side), pytest.raises(InputError, match=r"never calls .* 'unused'"):
        model(X)
    model.times = 1
    with replacing(model, {"part": plus_one}, side=side):
        for _ in range(3):
            model(X)
    assert torch.equal(model(X), 2 * X + 10)


def test_the_count_starts_anew_after_a_pass_that_failed():
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    with replacing(model, {"0": plus_one}):
        for _ in range(3):
            with pytest.raises(RuntimeError):
                model(torch.zeros(2, 4))
        model(X)


def test_a_part_that_is_called_by_itself_is_served_too():
    model = Called()
    with replacing(model, {"part": plus_one}):
        for _ in range(3):
            assert torch.equal(model.part(X, 0), 2 * X + 1)
        model(X)
        assert torch.equal(model.part(X, 0), 2 * X + 1)


def test_the_whole_model_is_a_module_too():
    model = Called()
    with replacing(model, {"": plus_one}):
        assert torch.equal(model(X), 2 * X + 11)
    with replacing(model, {"": plus_one}, side="input"):
        assert torch.equal(model(X), 2 * (X + 1) + 10)


def test_several_modules_at_once_and_reading_inside():
    model = nn.Sequential(*[nn.Identity() for _ in range(3)])
    with replacing(model, {"0": plus_one, "2": lambda tensor: 3 * tensor}):
        assert torch.equal(model(X), 3 * (X + 1))
        read = HookPoints(model, ["0", "1", "2"])
        for _ in range(2):  # the second pass stops after the last hook point
            assert [value[0, 0].item() for value in read.read(X).values()] == [1, 1, 3]


def test_each_thread_counts_its_own_passes():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    entered = threading.Barrier(2, timeout=10)
    failures = []

    def wait(tensor: Tensor) -> Tensor:
        entered.wait()
        return tensor + 1

    def run() -> None:
        try:
            assert torch.equal(model(X), X + 1)
        except Exception as error:
            failures.append(error)

    with replacing(model, {"0": wait}):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_an_error_in_the_function_leaves_nothing_behind():
    def fails(tensor: Tensor) -> Tensor:
        raise KeyboardInterrupt

    model = Called()
    with pytest.raises(KeyboardInterrupt), replacing(model, {"part": fails}):
        model(X)
    assert torch.equal(model(X), 2 * X + 10)


def test_one_name_stands_for_one_module():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    assert resolve_one(model, "1") == "1"
    with pytest.raises(InputError, match=r"'\*' stands for 2 modules \(0, 1, …\)"):
        resolve_one(model, "*")
    with pytest.raises(InputError, match="no module 'x'"), replacing(model, {"0": plus_one, "x": plus_one}):
        pytest.fail("the block ran")
    assert torch.equal(model(X), X)
