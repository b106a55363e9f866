"""Examples from anywhere: each row stays with its own example and label, whatever order they come in.

The activation of an example is its index, and its label a function of the index: any mix-up shows.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.datasets.base import MemoryImages

N = 23
X = torch.arange(N, dtype=torch.float32).unsqueeze(1)
LABELS = (torch.arange(N) * 7) % 5
SAME = nn.Sequential(nn.Identity())


class Items(Dataset):
    """Dictionaries, as hub data sets give them."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": X[index], "label": LABELS[index]}


class Named(nn.Module):
    """A network whose input is a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class NoLength(Sampler):
    """A sampler that does not say how long it is."""

    def __iter__(self):
        return iter(torch.randperm(N).tolist())


def aligned(store, *, labels: bool = True) -> list[int]:
    """The examples of a store, after a look at whether rows, examples and labels agree."""
    example = store.example
    assert torch.equal(store.rows(0, store.n)[:, 0].long(), example)
    if labels:
        assert torch.equal(store.label, LABELS[example])
    return example.tolist()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def pairs_as_dict(items: list) -> dict[str, Tensor]:
    return {"x": torch.stack([x for x, _ in items]), "targets": torch.stack([y for _, y in items])}


PAIRS = TensorDataset(X, LABELS)
ORDERS = {
    "shuffle": {"batch_size": 4, "shuffle": True},
    "generator": {"batch_size": 4, "shuffle": True, "generator": seeded()},
    "drop_last": {"batch_size": 4, "shuffle": True, "drop_last": True},
    "sampler": {"batch_size": 4, "sampler": RandomSampler(PAIRS, generator=seeded())},
    "no length": {"batch_size": 4, "sampler": NoLength()},
    "batch_sampler": {"batch_sampler": BatchSampler(RandomSampler(PAIRS), 3, drop_last=False)},
    "list of batches": {"batch_sampler": [[3, 1], [0, 22, 7]]},
    "subset": {"batch_size": 4, "sampler": SubsetRandomSampler([2, 3, 5, 7, 11])},
    "replacement": {"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * N, 40, generator=seeded())},
}
COUNT = {"drop_last": 20, "list of batches": 5, "subset": 5, "replacement": 40}


@pytest.mark.parametrize("given", ["loader", "labels=", "both"])
@pytest.mark.parametrize("order", list(ORDERS))
def test_a_loader_in_any_order(order, given):
    data = TensorDataset(X) if given == "labels=" else PAIRS
    loader = DataLoader(data, **ORDERS[order])
    examples = aligned(capture(SAME, loader, at="0", labels=None if given == "loader" else LABELS))
    assert len(examples) == COUNT.get(order, N)
    if order not in COUNT:
        assert sorted(examples) == list(range(N))
        assert examples != list(range(N))
    if order == "list of batches":
        assert examples == [3, 1, 0, 22, 7]


def test_a_seeded_loader_gives_the_same_order_each_time():
    orders = [aligned(capture(SAME, DataLoader(PAIRS, shuffle=True, generator=seeded()), at="0")) for _ in range(2)]
    assert orders[0] == orders[1] != list(range(N))


def test_workers_do_not_mix_up_examples():
    loader = DataLoader(PAIRS, batch_size=3, shuffle=True, num_workers=2)
    assert sorted(aligned(capture(SAME, loader, at="0"))) == list(range(N))


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(PAIRS, batch_size=4, shuffle=True, collate_fn=pairs_as_dict),
        lambda: DataLoader(Items(), batch_size=4, shuffle=True),
    ],
    ids=["collate", "dataset"],
)
def test_batches_that_are_mappings_become_keywords(loader):
    assert sorted(aligned(capture(Named(), loader(), at="inner"))) == list(range(N))


def test_unlabelled_rows_have_no_labels():
    store = capture(SAME, DataLoader(TensorDataset(X), batch_size=4, shuffle=True), at="0")
    assert store.label is None
    assert len(aligned(store, labels=False)) == N


@pytest.mark.parametrize(
    "batches",
    [
        [X[:4], X[4:10], X[10:]],
        [(X[:4],), [X[4:10]], (X[10:],)],
        [(X[:10], LABELS[:10].tolist()), (X[10:], LABELS[10:])],
        [(X[:0], LABELS[:0]), (X[:10], LABELS[:10]), (X[10:], LABELS[10:])],
        [(X[:10], LABELS[:10], "more"), (X[10:], LABELS[10:], "more")],
    ],
)
def test_batches_from_any_iterable_are_counted(batches):
    given = None if isinstance(batches[-1], tuple) and len(batches[-1]) > 1 else LABELS
    for examples in (batches, iter(batches), (batch for batch in batches)):
        assert aligned(capture(SAME, examples, at="0", labels=given)) == list(range(N))


def test_a_tensor_and_a_data_set():
    assert aligned(capture(SAME, X, at="0", labels=LABELS, batch_size=5)) == list(range(N))
    assert aligned(capture(SAME, X, at="0", labels=LABELS.tolist(), batch_size=100)) == list(range(N))
    pixels = torch.arange(N, dtype=torch.uint8).view(N, 1, 1, 1)
    images = MemoryImages(pixels, LABELS, list("abcde"))
    store = capture(nn.Sequential(nn.Flatten()), images, at="0", batch_size=5)
    assert torch.allclose(store.rows(0, N)[:, 0] * 255, X[:, 0])
    assert torch.equal(store.label, LABELS)
    assert store.class_names == list("abcde")
    relabelled = capture(nn.Sequential(nn.Flatten()), images, at="0", labels=4 - LABELS, class_names=list("vwxyz"))
    assert torch.equal(relabelled.label, 4 - LABELS)
    assert relabelled.class_names == list("vwxyz")


class Stream(IterableDataset):
    """Examples one after the other."""

    def __iter__(self):
        yield from zip(X, LABELS, strict=True)


def test_an_iterable_data_set_is_counted():
    assert aligned(capture(SAME, DataLoader(Stream(), batch_size=4), at="0")) == list(range(N))
    assert aligned(capture(SAME, DataLoader(Stream(), batch_size=4), at="0", labels=LABELS)) == list(range(N))


class Reversed(DataLoader):
    """A loader with an order of its own."""

    def __iter__(self):
        return iter([(X[i : i + 1], LABELS[i : i + 1]) for i in reversed(range(N))])


def test_a_loader_with_its_own_way_is_read_that_way():
    store = capture(SAME, Reversed(PAIRS, batch_size=4), at="0")
    assert store.rows(0, N)[:, 0].tolist() == list(range(N))[::-1]
    assert torch.equal(store.label, LABELS.flip(0))


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (lambda: X, LABELS[:-1], "22 labels for 23 examples"),
        (lambda: DataLoader(PAIRS, batch_size=4), LABELS[:-1], "22 labels for 23 examples"),
        (lambda: [X], LABELS[:-1], "22 labels"),
        (lambda: [X], torch.cat([LABELS, LABELS]), "46 labels for 23 examples"),
        (lambda: DataLoader(Stream(), batch_size=4), LABELS[:-1], "22 labels"),
        (lambda: DataLoader(PAIRS, batch_size=4, shuffle=True), LABELS.flip(0), "does not agree"),
        (lambda: [(X, LABELS)], LABELS.flip(0), "does not agree"),
        (lambda: X, LABELS.float(), "whole numbers"),
        (lambda: X, LABELS.unsqueeze(1), r"whole numbers \[n\], got torch.int64 \[23, 1\]"),
        (lambda: [(X, X[:, 0])], None, "whole numbers"),
        (lambda: [(X, ["a"] * N)], None, "whole numbers"),
        (lambda: [(X, LABELS[:-1])], None, "22 labels"),
        (lambda: DataLoader(TensorDataset(X), batch_size=None, shuffle=True), LABELS, "cannot be matched"),
        (lambda: Reversed(TensorDataset(X), shuffle=True), LABELS, "cannot be matched"),
    ],
)
def test_labels_that_do_not_fit_are_refused(examples, labels, message):
    with pytest.raises(InputError, match=message):
        capture(SAME, examples(), at="0", labels=labels)


@pytest.mark.parametrize(
    "examples", [lambda: X[:0], lambda: [], lambda: iter([]), lambda: [X[:0]], lambda: DataLoader(TensorDataset(X[:0]))]
)
def test_nothing_to_capture_is_said(examples, tmp_path):
    with pytest.raises(InputError, match="no examples"):
        capture(SAME, examples(), at="0", out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", ["text", 3, {"labels": LABELS}, (), ("text", LABELS), {"a": torch.zeros(2)}.keys()])
def test_a_batch_without_inputs_is_refused(batch):
    with pytest.raises(InputError, match="a batch"):
        capture(SAME, [batch], at="0")


def test_a_collate_that_drops_items_is_refused_and_not_misaligned():
    def odd_only(items):
        kept = [item for item in items if int(item[0]) % 2]
        return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])

    with pytest.raises(InputError, match="2 of its 4 examples"):
        capture(SAME, DataLoader(PAIRS, batch_size=4, collate_fn=odd_only), at="0")


def test_the_number_of_examples_a_pass_is_checked():
    with pytest.raises(InputError, match="batch_size"):
        capture(SAME, X, at="0", batch_size=0)
