"""What a row is, by hand, on feature maps and tokens."""

import pytest
import torch
from torch import Tensor, nn

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.models.rows import to_rows, with_rows

MAP = torch.arange(2 * 3 * 2 * 4.0).view(2, 3, 2, 4)
TOKENS = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
FLAT = torch.arange(2 * 3.0).view(2, 3)


@pytest.mark.parametrize(
    ("tensor", "meaning", "values"),
    [
        (MAP, "flatten", MAP.reshape(2, 24)),
        (TOKENS, "flatten", TOKENS.reshape(2, 15)),
        (FLAT, "flatten", FLAT),
        (MAP, "pool", MAP.mean((2, 3))),
        (TOKENS, "pool", TOKENS.mean(1)),
        (FLAT, "pool", FLAT),
        (TOKENS, "cls", TOKENS[:, 0]),
        (TOKENS, "position", TOKENS.reshape(10, 3)),
        (FLAT, "position", FLAT),
    ],
)
def test_values_of_rows(tensor, meaning, values):
    rows = to_rows(tensor, meaning, examples=2, name="h")
    assert torch.equal(rows.values, values)
    assert rows.per_example == len(values) // 2
    assert rows.position.tolist() == [*range(rows.per_example)] * 2


def test_a_place_of_a_feature_map_is_row_times_width_plus_column():
    rows = to_rows(MAP, "position", examples=2, name="h")
    assert rows.per_example == 8
    for index, (value, position) in enumerate(zip(rows.values, rows.position.tolist(), strict=True)):
        assert torch.equal(value, MAP[index // 8, :, position // 4, position % 4])


@pytest.mark.parametrize(
    ("tensor", "meaning", "message"),
    [
        (MAP, "cls", r"needs tokens.*\[2, 3, 2, 4\]"),
        (FLAT, "cls", "needs tokens"),
        (torch.zeros(2, 3, 1, 1, 1), "position", r"\[2, 3, 1, 1, 1\]"),
        (torch.zeros(2, 3, 1, 1, 1), "pool", "reads"),
        (torch.zeros(2), "flatten", r"rows need floats"),
        (torch.zeros(2, 3, dtype=torch.int64), "flatten", "rows need floats"),
        (torch.zeros(3, 3), "flatten", "for 2 examples"),
        (TOKENS.transpose(0, 1), "position", r"\[5, 2, 3\] for 2 examples"),
    ],
)
def test_a_tensor_without_the_axes_that_rows_need_is_refused(tensor, meaning, message):
    with pytest.raises(InputError, match=message):
        to_rows(tensor, meaning, examples=2, name="h")


class TokenNet(nn.Module):
    """Two tokens of an image [1, 2, 2]: its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x[:, 0])


@pytest.fixture
def conv() -> nn.Module:
    """Two channels: the pixel, and the sum of it and its right neighbour (zero at the edge)."""
    layer = nn.Conv2d(1, 2, (1, 2), bias=False)
    layer.weight.data = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 1.0]]]])
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 0)), layer)


def test_a_convolution_by_hand(conv):
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    store = capture(conv, images, at="1", rows="position", labels=[4, 9], batch_size=1)
    pixel, total = [1, 2, 3, 4, 5, 6, 7, 8], [3, 2, 7, 4, 11, 6, 15, 8]
    assert store.rows(0, 8).tolist() == [[float(a), float(b)] for a, b in zip(pixel, total, strict=True)]
    assert store.example.tolist() == [0] * 4 + [1] * 4
    assert store.position.tolist() == [0, 1, 2, 3] * 2
    assert store.label.tolist() == [4] * 4 + [9] * 4
    pooled = capture(conv, images, at="1", rows="pool", labels=[4, 9])
    assert pooled.rows(0, 2).tolist() == [[2.5, 4.0], [6.5, 10.0]]
    assert pooled.label.tolist() == [4, 9]
    flat = capture(conv, images, at="1")
    assert flat.rows(0, 2).tolist() == [[1, 2, 3, 4, 3, 2, 7, 4], [5, 6, 7, 8, 11, 6, 15, 8]]


def test_tokens_by_hand():
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    cls = capture(TokenNet(), images, at="tokens", rows="cls")
    assert cls.rows(0, 2).tolist() == [[1, 2], [5, 6]]
    assert cls.position.tolist() == [0, 0]
    each = capture(TokenNet(), images, at="tokens", rows="position")
    assert each.rows(0, 4).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert (each.example.tolist(), each.position.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])


def test_inputs_of_several_sizes():
    """Images of another width in each batch: rows of places fit one store, flat ones do not."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    batches = [torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 3)]
    store = capture(model, batches, at="0", rows="position")
    assert (store.n, store.d_in) == (2 * 4 + 2 * 6, 2)
    assert store.example.tolist() == [0] * 4 + [1] * 4 + [2] * 6 + [3] * 6
    assert store.position.tolist() == [*range(4)] * 2 + [*range(6)] * 2
    with pytest.raises(InputError, match="width 12 after rows of width 8"):
        capture(model, batches, at="0")


def test_an_unknown_meaning_is_refused_with_the_closest(monkeypatch):
    undecorated = getattr(to_rows, "__wrapped__", to_rows)
    with pytest.raises(InputError, match="did you mean 'position'"):
        undecorated(FLAT, "positions", examples=2, name="h")


@pytest.mark.parametrize("tensor", [MAP, TOKENS, FLAT], ids=["map", "tokens", "flat"])
@pytest.mark.parametrize("meaning", ["flatten", "pool", "position", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_rows_are_put_where_they_came_from(tensor, meaning, dtype):
    tensor = tensor.to(dtype)
    if meaning == "cls" and tensor.ndim != 3:
        return
    own = to_rows(tensor, meaning, examples=2, name="h").values
    kept = tensor.clone()
    assert torch.equal(with_rows(tensor, own.float(), meaning), tensor)
    other = own.float() + torch.arange(own.numel()).view_as(own) % 7
    made = with_rows(tensor, other, meaning)
    assert (made.shape, made.dtype) == (tensor.shape, dtype)
    torch.testing.assert_close(to_rows(made, meaning, examples=2, name="h").values, other.to(dtype))
    assert torch.equal(tensor, kept)


def test_a_mean_moves_every_place_and_a_first_token_no_other():
    made = with_rows(TOKENS, TOKENS.mean(1) + torch.tensor([1.0, 0.0, -2.0]), "pool")
    assert torch.equal(made, TOKENS + torch.tensor([1.0, 0.0, -2.0]))
    assert torch.equal(with_rows(MAP, MAP.mean((2, 3)) + 2, "pool"), MAP + 2)
    made = with_rows(TOKENS, torch.zeros(2, 3), "cls")
    assert torch.equal(made[:, 1:], TOKENS[:, 1:])
    assert torch.equal(made[:, 0], torch.zeros(2, 3))


def test_rows_of_another_number_or_width_are_refused():
    with pytest.raises(InputError, match=r"tensor \[2, 5, 3\] has rows \[10, 3\], not \[2, 3\]"):
        with_rows(TOKENS, torch.zeros(2, 3), "position")


def test_gradients_flow_into_the_rows():
    rows = torch.zeros(16, 3, requires_grad=True)
    weight = torch.rand(MAP.shape)
    (with_rows(MAP, rows, "position") * weight).sum().backward()
    assert torch.equal(rows.grad, to_rows(weight, "position", examples=2, name="h").values)
