"""Dictionaries that train side by side come out as they do alone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import HISTORY, WEIGHTS, Dictionary, DictionaryConfig
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_notebook import NotebookReLU
from unweave.dictionaries.topk import TopK
from unweave.store.artifact import read_manifest
from unweave.store.rows import TensorRows
from unweave.train import Job, Training, passes, several, train, train_several
from unweave.train.trainer import Trainer

SHORT = Training(epochs=3, batch_size=32)
ALWAYS = Runtime(checkpoint_seconds=0.0, device="cpu")
SMALL = TopK(d_sae=16, k=3)


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    """Two CPU threads, on any machine; afterwards there are as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


class Counted(TensorRows):
    """Rows that count how many of them were read."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__(rows)
        self.read = 0

    def batches(self, *args: Any, **options: Any) -> Iterator[Tensor]:
        """One epoch."""
        for batch in super().batches(*args, **options):
            self.read += len(batch)
            yield batch


def job(dictionary: DictionaryConfig = SMALL, training: Training = SHORT, **more: Any) -> Job:
    return Job(dictionary=dictionary, training=training, **more)


def alone(rows: Tensor, one: Job, **options: Any) -> Dictionary:
    return train(rows, one.dictionary, one.training, seed=one.seed, out=one.out, **options)


def same_bits(first: Any, second: Any) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and first.history == second.history


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, HISTORY)}


MIXED = [
    job(),
    job(seed=1),
    job(TopK(d_sae=24, k=2, aux=0.0)),
    job(ReLU(d_sae=16)),
    job(ReLU(d_sae=16, l1=0.1), seed=1),
    job(NotebookReLU(d_sae=16, l1=3e-3)),
    job(PCA(k=3)),
    job(training=Training(epochs=5, batch_size=32)),
    job(training=Training(steps=7, batch_size=32, shuffle=False)),
    job(training=Training(epochs=2, batch_size=50, shuffle=False), seed=1),
]


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"engine": "dense"}], ids=str)
def test_each_has_the_bits_that_it_has_alone(rows: Tensor, options: dict[str, Any]) -> None:
    runtime = Runtime(device="cpu", **options)
    found = train_several(rows, MIXED, runtime=runtime)
    for one, made in zip(MIXED, found, strict=True):
        assert same_bits(made, alone(rows, one, runtime=runtime)), one


def test_steps_that_take_several_threads_alone_take_them_here(rows: Tensor) -> None:
    wide = [job(TopK(d_sae=4096, k=3), Training(steps=2, batch_size=300), seed=seed) for seed in (0, 1, 2)]
    for runtime in (Runtime(device="cpu", engine="dense"), Runtime(device="cpu", threads=2)):
        for one, made in zip(wide, train_several(rows, wide, runtime=runtime), strict=True):
            assert same_bits(made, alone(rows, one, runtime=runtime))


def test_artifacts_are_those_of_training_alone(rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(seed=seed, out=tmp_path / "several" / str(seed)) for seed in (0, 1)]
    train_several(rows, jobs)
    for one in jobs:
        assert one.out is not None
        alone(rows, job(seed=one.seed, out=tmp_path / "alone"), overwrite=True)
        assert files(tmp_path / "alone") == files(one.out)
        assert read_manifest(tmp_path / "alone").id == read_manifest(one.out).id
    monkeypatch.setattr(Trainer, "train_batch", lambda *_: pytest.fail("it is there already"))
    again = train_several(rows, jobs)
    assert all(same_bits(one, alone(rows, made)) for one, made in zip(again, jobs, strict=True))


@pytest.mark.parametrize(
    ("jobs", "epochs"),
    [
        ([job(), job(TopK(d_sae=8, k=2)), job(ReLU(d_sae=16))], 3),
        ([job(), job(training=Training(epochs=5, batch_size=32))], 5),  # as far as the longest goes
        ([job(seed=0), job(seed=1), job(ReLU(d_sae=8), seed=1)], 6),  # a seed has an order of its own
        ([job(training=Training(epochs=3, batch_size=32, shuffle=False), seed=s) for s in range(3)], 3),
        ([job(), job(training=Training(epochs=3, batch_size=64)), job(training=Training(epochs=2, batch_size=7))], 3),
        ([job(), job(training=Training(epochs=2, batch_size=299))], 3),
    ],
    ids=["one order", "two lengths", "two seeds", "unshuffled", "three batch sizes", "a batch of nearly all"],
)
def test_rows_are_read_once_for_all_that_see_them_in_one_order(rows: Tensor, jobs: list[Job], epochs: int) -> None:
    source = Counted(rows)
    found = train_several(source, jobs)
    assert source.read == epochs * 300
    for one, made in zip(jobs, found, strict=True):
        assert same_bits(made, alone(rows, one))


def test_batches_of_several_sizes_lie_across_what_is_read_at_once(
    rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 40 rows, batches of 7, 16 and 40."""
    monkeypatch.setattr(passes, "_CHUNK_BYTES", 40 * 4 * 8)
    jobs = [job(training=Training(epochs=2, batch_size=size), seed=3) for size in (7, 16, 40)]
    source = Counted(rows)
    for one, made in zip(jobs, train_several(source, jobs), strict=True):
        assert same_bits(made, alone(rows, one)), one
    assert source.read == 600


def test_several_sources_by_name(rows: Tensor) -> None:
    sources = {"a": TensorRows(rows), "b": TensorRows(rows[:200] * 2)}
    found = train_several(sources, {"b": [job()], "a": [job(seed=1), job(PCA(k=2))]})
    assert same_bits(found["b"][0], alone(rows[:200] * 2, job()))
    assert same_bits(found["a"][0], alone(rows, job(seed=1)))
    assert isinstance(found["a"][1], Dictionary)
    with pytest.raises(InputError, match="rows of the same names"):
        train_several(sources, {"c": [job()]})


def test_memory_bounds_what_is_under_way(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(seed=seed) for seed in (0, 0, 0, 1)]
    source, most = Counted(rows), []
    one = several.Waiting.of(0, jobs[0], several.Batches(source, None, SHORT, 0)).bytes
    assert one == 4 * 4 * (2 * 8 * 16 + 16 + 8)  # four copies of W_enc, W_dec, b_enc and b_dec in float32
    open_pass = several._Workshop._open

    def noted(self: Any, group: Any) -> None:
        open_pass(self, group)
        most.append(sum(len(other.followers) for other in self._passes))

    monkeypatch.setattr(several._Workshop, "_open", noted)
    monkeypatch.setattr(several, "_AT_ONCE_BYTES", 5 * one // 2)
    found = train_several(source, jobs)
    assert source.read == 9 * 300  # the first two of seed 0, the third of it, and seed 1
    assert max(most) <= 2
    assert same_bits(found[2], found[0])


@pytest.mark.parametrize("bad", [{"learning_rate": 1e30, "scale_inputs": False}, {"clip_norm": 1e-30, "steps": 9}])
def test_one_that_fails_does_not_cost_the_others(rows: Tensor, bad: dict[str, Any], tmp_path: Path) -> None:
    jobs = [job(out=tmp_path / "a"), job(training=Training(batch_size=32, **bad), out=tmp_path / "b"), job(seed=1)]
    found = train_several(rows, jobs)
    assert same_bits(found[0], alone(rows, job()))
    assert same_bits(found[2], alone(rows, job(seed=1)))
    if "learning_rate" in bad:
        assert isinstance(found[1], InputError)
        assert "learning_rate" in str(found[1])
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_cannot_start_is_told_like_what_fails(rows: Tensor) -> None:
    """The notebook's dictionary has no sparse step; the others have."""
    jobs = [job(), job(NotebookReLU(d_sae=16))]
    made, error = train_several(rows, jobs, runtime=Runtime(device="cpu", engine="sparse"))
    assert isinstance(made, Dictionary)
    assert isinstance(error, InputError)
    assert "no sparse step" in str(error)


class StoppedError(Exception):
    """Stands for the kill."""


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Die at some step of all dictionaries together."""
    train_batch, taken = Trainer.train_batch, iter(range(steps))

    def stopping(self: Trainer, *batch: Any) -> None:
        if next(taken, None) is None:
            raise StoppedError
        train_batch(self, *batch)

    patch.setattr(Trainer, "train_batch", stopping)


@pytest.mark.parametrize("stops", [(1,), (50, 7, 41), (119,)])
def test_a_killed_sweep_goes_on_where_it_was(rows: Tensor, tmp_path: Path, stops: tuple[int, ...]) -> None:
    jobs = [job(TopK(d_sae=16, k=k), seed=s, out=tmp_path / f"{k}{s}") for k in (2, 3) for s in (0, 1)]
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(StoppedError):
                train_several(rows, jobs, runtime=ALWAYS)
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        train_batch = Trainer.train_batch
        patch.setattr(Trainer, "train_batch", lambda self, *batch: (taken.append(1), train_batch(self, *batch)))
        found = train_several(rows, jobs, runtime=ALWAYS)
    assert len(taken) == 4 * 30 - sum(stops)
    for one, made in zip(jobs, found, strict=True):
        assert same_bits(made, alone(rows, job(one.dictionary, seed=one.seed)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20", "21", "30", "31"]


def test_one_that_is_far_ahead_waits_for_the_batches_it_has_not_seen(rows: Tensor, tmp_path: Path) -> None:
    """A checkpoint of an earlier training is taken up, whatever the others have."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 25)
        with pytest.raises(StoppedError):
            alone(rows, job(out=tmp_path / "ahead"), runtime=ALWAYS)
    source = Counted(rows)
    found = train_several(source, [job(out=tmp_path / "ahead"), job(TopK(d_sae=16, k=2))], runtime=ALWAYS)
    assert source.read == 900
    assert same_bits(found[0], alone(rows, job()))
    assert same_bits(found[1], alone(rows, job(TopK(d_sae=16, k=2))))


def test_an_interruption_ends_the_threads(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unweave.core.progress.Bar.advance", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train_several(rows, [job(training=Training(epochs=500, batch_size=32), seed=seed) for seed in range(3)])
    assert threading.active_count() == before


REFUSED: list[tuple[Callable[[Path], list[Job]], str]] = [
    (lambda place: [job(out=place / "x"), job(seed=1, out=place / "x")], "one folder"),
    (lambda place: [job(), job(out=place / "mine")], "no Unweave artifact"),
    (lambda place: [job(TopK(d_sae=16, k=2)), job(PCA(), out=place / "other")], "other settings"),
]


@pytest.mark.parametrize(("jobs", "words"), REFUSED, ids=["twice", "foreign", "other settings"])
def test_folders_are_looked_at_before_any_work(
    rows: Tensor, tmp_path: Path, jobs: Callable[[Path], list[Job]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    alone(rows, job(PCA(k=2), out=tmp_path / "other"))
    monkeypatch.setattr(Trainer, "train_batch", lambda *_: pytest.fail("nothing may be trained"))
    with pytest.raises(InputError, match=words):
        train_several(rows, jobs(tmp_path))


def test_a_damaged_checkpoint_is_told_and_costs_only_its_own(rows: Tensor, tmp_path: Path) -> None:
    (tmp_path / ".a.checkpoint.safetensors").write_bytes(b"damaged")
    made, error = train_several(rows, [job(), job(out=tmp_path / "a")])
    assert isinstance(made, Dictionary)
    assert isinstance(error, StoreError)


def test_rows_that_are_not_finite_are_named(rows: Tensor) -> None:
    bad = rows.clone()
    bad[5] = float("nan")
    with pytest.raises(InputError, match="1 of 300 rows hold NaN or Inf"):
        train_several(bad, [job()])


def test_nothing_to_train_is_nothing(rows: Tensor) -> None:
    assert train_several(rows, []) == []
