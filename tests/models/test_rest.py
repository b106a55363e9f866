"""The rest of a network: the short way where it is sound, honest passes where it is not."""

import pytest
import torch
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.models.rest import RestOfNetwork


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Counting(nn.Linear):
    """Counts the examples that pass."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x)


class Net(nn.Module):
    """`before`, a ReLU at `here`, `after`; `kind` says what passes the hook point by."""

    def __init__(self, kind: str = "straight") -> None:
        super().__init__()
        self.kind = kind
        self.before, self.here, self.after = Counting(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = self.here(self.before(x))
        match self.kind:
            case "skip":
                value = value + x
            case "gate":
                value = value * x[:, :1].abs()
            case "rare gate":  # shows only where the tensor is of another example
                value = value + x * (value - torch.relu(self.before(x))).abs().sum(1, keepdim=True).clamp(max=1)
            case "view":
                value = value.view(len(x), 4)
            case "in place":
                value.add_(1)
            case "across":
                value = value - value.mean(0)
        return self.after(value)


@pytest.mark.parametrize("kind", ["straight", "in place"])
def test_the_short_way_pays_for_one_example(kind):
    model = Net(kind).train()
    rest = RestOfNetwork(model, "here")
    x = drawn(20, 4)
    batch = rest.on(x)
    assert rest.shortcut, rest.why
    model.before.seen = 0
    values = drawn(500, 4, seed=1)
    kept = values.clone()
    answers = batch(values, torch.zeros(500, dtype=torch.int64))
    assert model.before.seen == 1
    torch.testing.assert_close(answers, model.after(values + (kind == "in place")))
    assert torch.equal(values, kept), "the caller's tensor was written into"
    assert torch.equal(batch.answers, model(x))
    assert torch.equal(batch.values, torch.relu(model.before(x)))
    assert model.training
    assert all(not part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("kind", ["skip", "gate", "rare gate", "view", "across"])
def test_what_passes_the_hook_point_by_is_found(kind):
    model = Net(kind)
    rest = RestOfNetwork(model, "here")
    x = drawn(6, 4)
    batch = rest.on(x)
    assert not rest.shortcut
    assert rest.why
    torch.testing.assert_close(batch(batch.values), model(x))
    if kind != "across":
        example = torch.tensor([3, 3, 0])
        values = drawn(3, 4, seed=2).abs()
        honest = torch.cat(
            [rest.run(x[one : one + 1], value) for one, value in zip(example, values.split(1), strict=True)]
        )
        torch.testing.assert_close(batch(values, example), honest)


def test_it_is_found_on_a_later_batch_too():
    model = Net("skip")
    rest = RestOfNetwork(model, "here")
    rest.on(drawn(1, 4).expand(5, 4))
    assert rest.shortcut, "examples that are all the same cannot tell"
    batch = rest.on(drawn(5, 4, seed=3))
    assert not rest.shortcut
    torch.testing.assert_close(batch(batch.values), model(batch.inputs))


def test_one_example_is_always_its_own():
    model = Net("skip")
    rest = RestOfNetwork(model, "here")
    batch = rest.on(drawn(1, 4))
    values = drawn(7, 4, seed=2).abs()
    torch.testing.assert_close(batch(values, torch.zeros(7, dtype=torch.int64)), model.after(values + batch.inputs))


@pytest.mark.parametrize("kind", ["straight", "skip"])
def test_gradients_reach_the_values(kind):
    model = Net(kind)
    batch = RestOfNetwork(model, "here").on(drawn(5, 4))
    values = batch.values.clone().requires_grad_()
    batch(values).sum().backward()
    torch.testing.assert_close(values.grad, model.after.weight.sum(0).expand(5, 4))


def test_inputs_of_a_module_and_batch_norm_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    mean = model[1].running_mean.clone()
    rest = RestOfNetwork(model, "1", side="input")
    batch = rest.on(drawn(8, 4))
    assert rest.shortcut, rest.why
    torch.testing.assert_close(batch(batch.values), batch.answers)
    assert torch.equal(model[1].running_mean, mean)
    assert model.training


def test_a_model_that_answers_otherwise_than_by_example_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0))
    with pytest.raises(InputError, match=r"answers 3 examples with a tensor \[12\]"):
        RestOfNetwork(model, "0").on(drawn(3, 4))


def test_logits_of_a_model_output():
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Wrapped(Net):
        def forward(self, x: Tensor) -> Output:
            return Output(super().forward(x))

    batch = RestOfNetwork(Wrapped(), "here").on(drawn(3, 4))
    assert batch.answers.shape == (3, 3)
