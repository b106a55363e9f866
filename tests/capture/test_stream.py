"""Rows that are computed while they are read: what they are, in which order, and at what cost."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from unweave.capture import capture
from unweave.capture.feed import Mixing
from unweave.capture.stream import StreamedRows, stream_several
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.datasets.base import MemoryTexts
from unweave.datasets.digits import Digits
from unweave.datasets.scrambled import Scrambled
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.topk import TopK
from unweave.store.artifact import read_manifest
from unweave.store.rows import RowSource
from unweave.train import Job, Training, train, train_several
from unweave.train.trainer import Trainer

SMALL = 3 * 4 * 100 * 16  # three refills of 100 examples with 16 numbers each


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Four rows of width 4 for each example at "0" and "1"; one of width 16 at "2", one of width 3 at "3"."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(530, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def streamed(model: nn.Module, images: Any, **options: Any) -> StreamedRows:
    options = {"at": "1", "rows": "position", "buffer_bytes": SMALL, "batch_size": 32, "sample_rows": 400, **options}
    return StreamedRows(model, images, **options)


def in_order(rows: Tensor) -> Tensor:
    """Rows sorted, to compare what two orders hold."""
    for column in range(rows.shape[1] - 1, -1, -1):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows


def again(batches: Iterator[Tensor]) -> list[Tensor]:
    return [batch.clone() for batch in batches]


@pytest.mark.parametrize(("at", "rows"), [("1", "position"), ("1", "pool"), ("2", "flatten"), ("3", "flatten")])
def test_it_is_a_source_of_the_rows_that_capture_would_store(
    model: nn.Module, images: Tensor, at: str, rows: Any
) -> None:
    stream, stored = streamed(model, images, at=at, rows=rows), capture(model, images, at=at, rows=rows)
    assert isinstance(stream, RowSource)
    assert (stream.n, stream.d_in, stream.hook_name) == (stored.n, stored.d_in, stored.hook_name)
    torch.testing.assert_close(torch.cat(list(stream.blocks(100))), stored.rows(0, stored.n))
    assert {len(block) for block in list(stream.blocks(100))[:-1]} == {100}
    passes = [torch.cat(list(stream.batches(64, epoch=epoch))) for epoch in (0, 1)]
    assert not torch.equal(passes[0], passes[1])
    for rows_seen in passes:
        torch.testing.assert_close(in_order(rows_seen), in_order(stored.rows(0, stored.n)))
    straight = torch.cat(list(stream.batches(64, epoch=1, shuffle=False)))
    torch.testing.assert_close(straight, stored.rows(0, stored.n))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("at", [("1", "position"), ("3", "flatten")], ids=["mixed", "permuted"])
@pytest.mark.parametrize("seekable", [True, False])
def test_an_epoch_is_taken_up_at_any_batch_with_the_same_bits(
    model: nn.Module, images: Tensor, at: tuple[str, Any], seekable: bool, shuffle: bool
) -> None:
    examples = images if seekable else list(images.split(50))
    stream = streamed(model, examples, at=at[0], rows=at[1])
    whole = again(stream.batches(37, epoch=2, shuffle=shuffle))
    for skip in (0, 1, 7, len(whole) // 2, len(whole) - 1, len(whole)):
        rest = again(stream.batches(37, epoch=2, skip=skip, shuffle=shuffle))
        assert len(rest) == len(whole) - skip
        assert all(map(torch.equal, rest, whole[skip:]))


def test_what_lies_before_the_batch_does_not_go_through_the_model(model: nn.Module, images: Tensor) -> None:
    """Two refills of 100 examples hold the last serving's rows, and batches of 32 examples reach over their ends."""
    for examples in (images, list(images.split(32))):
        stream = streamed(model, examples)
        skip = stream.n // 37
        before = stream.stream.forward.examples
        list(stream.batches(37, epoch=0, skip=skip))
        assert stream.stream.forward.examples - before <= 200 + 32


def test_memory_is_what_was_said(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are more rows held than three refills."""
    from unweave.capture import feed

    most, give = [0], feed.Feed._give

    def counted(self: Any, name: str, index: int, rows: Tensor) -> None:
        give(self, name, index, rows)
        most[0] = max(most[0], sum(one.rows.numel() * 4 for one in self._ready.values()))

    monkeypatch.setattr(feed.Feed, "_give", counted)
    stream = streamed(model, images)
    for _ in stream.batches(64, epoch=0):
        pass
    assert SMALL / 2 < most[0] <= SMALL


def test_a_batch_mixes_the_rows_of_two_refills(images: Tensor) -> None:
    """Rows that carry the number of their example: neighbours are apart, whatever the order of the examples."""
    numbers = torch.arange(6400.0).view(-1, 1, 1, 1).expand(-1, 1, 3, 3).contiguous()
    model = nn.Sequential(nn.AvgPool2d(2, 1))
    stream = StreamedRows(model, numbers, at="0", rows="position", buffer_bytes=3 * 4 * 4 * 800, batch_size=100)
    together = [batch.flatten() for batch in stream.batches(100, epoch=0)]
    pairs = sum(len(batch) - len(batch.unique()) for batch in together)
    # Four rows of an example, spread over about 1,600 examples: a batch of 100 holds 100 · 99 / 2 · 3 / 6,400 pairs.
    expected = len(together) * 100 * 99 / 2 * 3 / 6400
    assert 0.7 * expected < pairs < 1.6 * expected
    assert abs(float(torch.cat(together[20:40]).mean()) - 3199.5) < 250


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (1, 1), (7, 100), (5, 1), (2, 1)])
@pytest.mark.parametrize("mixes", [True, False])
def test_servings_give_every_row_once(n: int, size: int, mixes: bool) -> None:
    mixing = Mixing(n, size, mixes)
    seen, rows = [], 0
    for index in range(mixing.refills):
        assert mixing.start(index) == rows
        if mixes:
            late, early = mixing.picks(index, 0, 0)
            here = [*((index - 1) * size + late).tolist(), *(index * size + early).tolist()]
        else:
            here = list(range(index * size, index * size + mixing.rows(index)))
        assert all(mixing.serving_of(row) == index for row in range(rows, rows + len(here)))
        rows += len(here)
        seen += here
    assert sorted(seen) == list(range(n))


def test_the_order_is_the_streams_own(model: nn.Module, images: Tensor) -> None:
    stream, other = streamed(model, images), streamed(model, images, seed=1)
    first = torch.cat(again(stream.batches(64, seed=5, epoch=0)))
    assert torch.equal(first, torch.cat(again(stream.batches(50, seed=6, epoch=0))))
    assert not torch.equal(first, torch.cat(again(other.batches(64, epoch=0))))
    assert stream.id != other.id


def test_the_sample_stands_for_all_rows(model: nn.Module, images: Tensor) -> None:
    stored = capture(model, images, at="1", rows="position")
    whole, some = streamed(model, images, sample_rows=10_000), streamed(model, images, sample_rows=500)
    torch.testing.assert_close(torch.cat(list(whole.sample().blocks(512))), stored.rows(0, stored.n))
    assert whole.moments().variance == pytest.approx(stored.moments().variance)
    assert some.sample().n == 500
    assert some.moments().variance == pytest.approx(stored.moments().variance, rel=0.15)
    assert some.details["stream"] == {
        "examples": 530,
        "rows": 2120,
        "sample_rows": 500,
        "rows_mixed": 800,
        "buffer_bytes": SMALL,
        "seed": 0,
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_indices_is_shuffled_by_the_stream(model: nn.Module, images: Tensor, workers: int) -> None:
    loader = DataLoader(TensorDataset(images, torch.zeros(530).long()), batch_size=48, num_workers=workers)
    direct, loaded = streamed(model, images), streamed(model, loader)
    assert torch.equal(torch.cat(again(direct.batches(64, epoch=1))), torch.cat(again(loaded.batches(64, epoch=1))))


class Texts(IterableDataset[dict[str, Tensor]]):
    """Token ids of several lengths, padded batch by batch, with their mask; it notes the epochs that it is told of."""

    def __init__(self) -> None:
        self.lengths = torch.randint(1, 9, (120,), generator=torch.Generator().manual_seed(0))
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for lengths in self.lengths.split(20):
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            ids = mask * torch.arange(1, mask.shape[1] + 1)
            yield {"input_ids": ids, "attention_mask": mask}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded: Tensor = self.embed(input_ids)
        return embedded


def test_rows_of_texts_are_those_of_their_real_tokens() -> None:
    texts, model = Texts(), Reader()
    for examples in (texts, DataLoader(texts, batch_size=None)):
        stream = StreamedRows(model, examples, at="embed", rows="position", buffer_bytes=2000)
        assert stream.n == int(texts.lengths.sum())
        stored = capture(model, examples, at="embed", rows="position")
        torch.testing.assert_close(torch.cat(list(stream.blocks(50))), stored.rows(0, stored.n))
        whole = again(stream.batches(16, epoch=1))
        torch.testing.assert_close(in_order(torch.cat(whole)), in_order(stored.rows(0, stored.n)))
        rest = again(stream.batches(16, epoch=1, skip=20))
        assert all(map(torch.equal, rest, whole[20:]))


class Speller(nn.Module):
    """A model of texts with a tokenizer of its own: a letter is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 3)

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        longest = max(map(len, texts))
        ids = torch.tensor([[*map(ord, text), *[0] * (longest - len(text))] for text in texts])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded: Tensor = self.embed(input_ids)
        return embedded


def test_texts_are_shuffled_and_taken_up_by_the_rows_that_each_has() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = ["abcdefgh"[: int(n)] for n in torch.randint(1, 9, (150,), generator=generator)]
    model = Speller()
    stream = StreamedRows(
        model, MemoryTexts(texts), at="embed", rows="position", buffer_bytes=3000, batch_size=8, sample_rows=50
    )
    assert stream.n == sum(map(len, texts))
    stored = capture(model, MemoryTexts(texts), at="embed", rows="position")
    whole = again(stream.batches(16, epoch=1))
    torch.testing.assert_close(in_order(torch.cat(whole)), in_order(stored.rows(0, stored.n)))
    before = stream.stream.forward.examples
    for skip in (1, 13, len(whole) - 2):
        rest = again(stream.batches(16, epoch=1, skip=skip))
        assert all(map(torch.equal, rest, whole[skip:]))
    assert stream.stream.forward.examples - before < 2.3 * 150
    pooled = StreamedRows(model, MemoryTexts(texts), at="embed", rows="pool")
    assert pooled.n == sum(map(len, pooled.batches(32, epoch=0))) == 150


def test_a_stream_that_shuffles_itself_is_told_the_epoch() -> None:
    class Pictures(IterableDataset[Tensor]):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[Tensor]:
            yield from (torch.full((10, 2), float(self.epoch)) for _ in range(3))

    stream = StreamedRows(nn.Sequential(nn.Identity()), DataLoader(Pictures(), batch_size=None), at="0")
    assert stream.n == 30
    assert torch.cat(list(stream.batches(8, epoch=4))).unique().tolist() == [4.0]
    assert torch.cat(list(stream.batches(8, epoch=2))).unique().tolist() == [2.0]


@pytest.mark.parametrize("limit", [1, 70, 200])
def test_a_limit_takes_the_first_examples(model: nn.Module, images: Tensor, limit: int) -> None:
    expected = capture(model, images[:limit], at="1", rows="position")
    for examples in (images, list(images.split(50))):
        stream = streamed(model, examples, limit=limit)
        assert stream.n == 4 * limit
        torch.testing.assert_close(torch.cat(list(stream.blocks(99))), expected.rows(0, expected.n))
        assert sum(map(len, stream.batches(64, epoch=0))) == 4 * limit


def test_images_that_are_drawn_anew_are_others_at_each_epoch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
    images = Scrambled(of=Digits(), block=2).load("test")
    stream, half = StreamedRows(model, images, at="1"), len(images) // 2
    first, second = (torch.cat(list(stream.batches(50, epoch=e, shuffle=False))) for e in (0, 1))
    torch.testing.assert_close(first[:half], second[:half])
    assert not torch.allclose(first[half:], second[half:])


# Training.

TRAINING = Training(epochs=3, batch_size=64)
ALWAYS = Runtime(checkpoint_seconds=0.0, device="cpu")


def same_bits(first: Any, second: Any) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and first.history == second.history


class StoppedError(Exception):
    """Stands for the kill."""


def stop_at(patch: pytest.MonkeyPatch, steps: int) -> None:
    train_batch, taken = Trainer.train_batch, iter(range(steps))

    def stopping(self: Trainer, *batch: Any) -> None:
        if next(taken, None) is None:
            raise StoppedError
        train_batch(self, *batch)

    patch.setattr(Trainer, "train_batch", stopping)


@pytest.mark.parametrize("loader", [False, True])
def test_a_killed_training_ends_with_the_same_bits(
    model: nn.Module, images: Tensor, tmp_path: Path, loader: bool
) -> None:
    def rows() -> StreamedRows:
        return streamed(model, list(images.split(50)) if loader else images)

    whole = train(rows(), TopK(d_sae=12, k=2), TRAINING, out=tmp_path / "whole")
    threads = threading.active_count()
    for stop in (1, 40, 37):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, stop)
            with pytest.raises(StoppedError):
                train(rows(), TopK(d_sae=12, k=2), TRAINING, out=tmp_path / "again", runtime=ALWAYS)
        assert threading.active_count() == threads, "the model still runs"
    made = train(rows(), TopK(d_sae=12, k=2), TRAINING, out=tmp_path / "again")
    assert same_bits(made, whole)
    assert read_manifest(tmp_path / "again").details["stream"]["sample_rows"] == 400


JOBS = [
    Job(dictionary=TopK(d_sae=12, k=2), training=TRAINING),
    Job(dictionary=TopK(d_sae=20, k=3), training=TRAINING, seed=1),
    Job(dictionary=TopK(d_sae=8, k=1), training=Training(epochs=2, batch_size=100), seed=2),
    Job(dictionary=PCA(k=2), training=TRAINING),
]


def test_several_dictionaries_cost_the_passes_of_one(model: nn.Module, images: Tensor) -> None:
    stream = streamed(model, images)
    made = train_several(stream, JOBS)
    assert stream.stream.forward.examples == 3 * 530 + stream.stream.sample().examples
    for one, job in zip(made, JOBS, strict=True):
        assert same_bits(one, train(streamed(model, images), job.dictionary, job.training, seed=job.seed))


def test_layers_share_the_passes(model: nn.Module, images: Tensor) -> None:
    layers = stream_several(
        model, images, at=["1", "3"], rows="position", buffer_bytes=SMALL, batch_size=32, sample_rows=400
    )
    assert list(layers) == ["1", "3"]
    found = train_several(layers, {"1": JOBS, "3": JOBS[:2]})
    forward = layers["1"].stream.forward
    assert forward.examples == 3 * 530 + layers["1"].stream.sample().examples
    for name, jobs in {"1": JOBS, "3": JOBS[:2]}.items():
        for one, job in zip(found[name], jobs, strict=True):
            assert isinstance(one, Dictionary)
            assert one.hook_name == name
            assert same_bits(one, train(layers[name], job.dictionary, job.training, seed=job.seed))


def test_an_interruption_ends_the_pass(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stream = streamed(model, images)
    stream.sample()
    monkeypatch.setattr("unweave.core.progress.Bar.advance", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train_several(stream, [Job(dictionary=TopK(d_sae=8, k=2), training=Training(epochs=500, batch_size=32))])
    assert threading.active_count() == before


def test_it_comes_to_what_captured_rows_come_to() -> None:
    """Digits, a small network: explained variance of held-out rows, streamed and stored."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    digits, held_out = Digits().load("train"), capture(network, Digits().load("test"), at="1", rows="position")
    rows = held_out.rows(0, held_out.n)
    explained = []
    stream = StreamedRows(network, digits, at="1", rows="position", buffer_bytes=1 << 20, sample_rows=8192)
    for source in (stream, capture(network, digits, at="1", rows="position")):
        made = train(source, TopK(d_sae=32, k=4), Training(epochs=6, batch_size=512))
        error = (rows - made(rows)).double().square().sum()
        explained.append(1 - float(error / (rows - rows.mean(0)).double().square().sum()))
    assert explained[0] == pytest.approx(explained[1], abs=0.01)
    assert min(explained) > 0.9


# What goes wrong.


def test_what_comes_only_once_is_refused(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"gives its batches only once.*hand batches of rows to train\(\)"):
        streamed(model, iter([images]))


def test_a_loader_that_is_empty_the_second_time_is_told(model: nn.Module, images: Tensor) -> None:
    class Once:
        def __init__(self) -> None:
            self.left = list(images.split(100))

        def __iter__(self) -> Iterator[Tensor]:
            while self.left:
                yield self.left.pop()

    with pytest.raises(InputError, match="the examples ended before the rows that were counted"):
        list(streamed(model, Once(), limit=530).batches(64, epoch=0))


def test_an_error_in_the_model_reaches_the_reader(images: Tensor) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Identity(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 20:
                raise RuntimeError("out of luck")
            return self.layer(x)  # type: ignore[no-any-return]

    stream = StreamedRows(Broken(), images, at="layer", batch_size=32, sample_rows=64)
    list(stream.batches(64, epoch=0))
    with pytest.raises(InputError, match=r"the model failed on a batch of 32 .*out of luck"):
        list(stream.batches(64, epoch=1))
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_rows_that_are_not_finite_are_told(images: Tensor) -> None:
    bad = images.clone()
    bad[400] = float("nan")
    stream = StreamedRows(nn.Sequential(nn.Flatten()), bad, at="0", batch_size=32, sample_rows=16)
    with pytest.raises(
        InputError, match=r"'0' gives NaN or Inf \(float32\) for 1 rows of a batch, first for example 400"
    ):
        list(stream.batches(64, epoch=0))


def test_examples_of_several_sizes_are_refused() -> None:
    sizes = [torch.rand(4, 1, 3, 3), torch.rand(4, 1, 5, 5)]
    model = nn.Sequential(nn.Conv2d(1, 2, 2))
    with pytest.raises(InputError, match="the same number of rows, of one width"):
        list(StreamedRows(model, sizes, at="0", rows="position").batches(8, epoch=0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": "7"}, "no module '7'"),
        ({"at": "*"}, "stands for 4 modules; stream_several takes them all"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"buffer_bytes": 0}, "buffer_bytes must be at least 1"),
        ({"sample_rows": 0}, "sample_rows must be at least 1"),
        ({"std": (0.0,)}, "std must not hold 0"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_told(
    model: nn.Module, images: Tensor, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        streamed(model, images, **options)
