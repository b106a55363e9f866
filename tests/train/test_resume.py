"""A run that is killed at any moment and started again ends with the same bits as one that was not."""

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import HISTORY, WEIGHTS, DictionaryConfig
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.store.artifact import MANIFEST, read_json
from unweave.train import Training, train
from unweave.train.checkpoint import Checkpoint
from unweave.train.trainer import Trainer

FORK = multiprocessing.get_context("fork")
SHORT = Training(epochs=6, batch_size=32)
ALWAYS = Runtime(checkpoint_seconds=0.0, device="cpu")


class StoppedError(Exception):
    """Stands for the kill."""


def _files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, HISTORY)}


def _beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path != folder)


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    train_batch = Trainer.train_batch

    def stopping(self: Trainer, *batch: Any) -> None:
        if self.step == step:
            raise StoppedError
        train_batch(self, *batch)

    monkeypatch.setattr(Trainer, "train_batch", stopping)


def _train_until(step: int, *args: Any, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _stop_at(patch, step)
        with pytest.raises(StoppedError):
            train(*args, **options, runtime=ALWAYS)


@pytest.mark.parametrize("stops", [[1], [7, 8, 30], [59]])
def test_a_stopped_run_ends_with_the_same_bits(
    config: DictionaryConfig, rows: Tensor, tmp_path: Path, stops: list[int]
) -> None:
    whole = train(rows, config, SHORT, out=tmp_path / "whole" / "a")
    for stop in stops:
        _train_until(stop, rows, config, SHORT, out=tmp_path / "b" / "a")
        assert _beside(tmp_path / "b" / "a") == [".a.checkpoint.safetensors"]
        assert not (tmp_path / "b" / "a").exists()
    again = train(rows, config, SHORT, out=tmp_path / "b" / "a", runtime=ALWAYS)
    assert _files(tmp_path / "b" / "a") == _files(tmp_path / "whole" / "a")
    assert again.history == whole.history
    assert _beside(tmp_path / "b" / "a") == []


def test_a_run_stopped_inside_an_interval_of_its_history(rows: Tensor, tmp_path: Path) -> None:
    """The sums of an interval under way are part of the state, and so is the order of their names."""
    config = TopK(d_sae=64, k=1, aux=1.0)
    training = Training(steps=400, batch_size=32, dead_window=0.001, dead_firings=0)
    train(rows[:32], config, training, out=tmp_path / "whole" / "a")
    for stop in (1, 3, 90):
        _train_until(stop, rows[:32], config, training, out=tmp_path / "b" / "a")
    train(rows[:32], config, training, out=tmp_path / "b" / "a")
    assert _files(tmp_path / "b" / "a") == _files(tmp_path / "whole" / "a")


def _train_slowly(rows: Tensor, out: Path) -> None:
    torch.set_num_threads(1)
    train(rows, TopK(d_sae=16, k=3), Training(epochs=8, batch_size=16), out=out, runtime=ALWAYS)


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(rows: Tensor, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train_slowly(rows, tmp_path / "whole" / "a")
        kills, moments = 0, random.Random(0)
        while not (tmp_path / "b" / "a").exists():
            child = FORK.Process(target=_train_slowly, args=(rows, tmp_path / "b" / "a"))
            child.start()
            child.join(moments.uniform(0.1, 0.6) if 0 < kills < 5 else None if kills else 0.01)
            if child.exitcode is None:
                child.kill()
                child.join()
                kills += child.exitcode == -signal.SIGKILL
    finally:
        torch.set_num_threads(threads)
    assert kills >= 1
    assert _files(tmp_path / "b" / "a") == _files(tmp_path / "whole" / "a")
    _train_slowly(rows, tmp_path / "b" / "a")  # finds it done, and clears what a kill at the very end left
    assert _beside(tmp_path / "b" / "a") == []


def test_a_finished_run_is_read_back_without_training(
    config: DictionaryConfig, rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(rows, config, SHORT, seed=3, out=tmp_path / "a")
    stamp = (tmp_path / "a" / MANIFEST).stat().st_mtime_ns
    _stop_at(monkeypatch, 0)
    again = train(rows, config, SHORT, seed=3, out=tmp_path / "a")
    assert all(torch.equal(first.state_dict()[name], value) for name, value in again.state_dict().items())
    assert again.history == first.history
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp
    with pytest.raises(StoppedError):
        train(rows, config, SHORT, seed=3, out=tmp_path / "a", overwrite=True)
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp


CHANGES: list[dict[str, Any]] = [
    {"seed": 1},
    {"training": Training(epochs=7, batch_size=32)},
    {"dictionary": TopK(d_sae=16, k=4)},
    {"rows": torch.ones(10, 8)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_training_is_refused_before_any_work(
    rows: Tensor, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"rows": rows, "dictionary": TopK(d_sae=16, k=3), "training": SHORT}
    train(**settings, out=tmp_path / "a")
    before = _files(tmp_path / "a")
    with monkeypatch.context() as patch:
        _stop_at(patch, 0)
        with pytest.raises(InputError, match="overwrite"):
            train(**{**settings, **change}, out=tmp_path / "a")
    assert _files(tmp_path / "a") == before
    train(**{**settings, **change}, out=tmp_path / "a", overwrite=True)
    assert _files(tmp_path / "a") != before


def test_the_device_and_its_like_are_not_part_of_it(rows: Tensor, tmp_path: Path) -> None:
    train(rows, PCA(), out=tmp_path / "a")
    stamp = (tmp_path / "a" / MANIFEST).stat().st_mtime_ns
    train(rows, PCA(), out=tmp_path / "a", runtime=Runtime(device="cpu", checkpoint_seconds=1.0))
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp


def _stopped(rows: Tensor, out: Path, *, seed: int = 0) -> Path:
    _train_until(20, rows, TopK(d_sae=16, k=3), SHORT, seed=seed, out=out)
    return Checkpoint(out, "").path


def test_a_damaged_checkpoint_is_one_error_wherever_the_damage_is(rows: Tensor, tmp_path: Path) -> None:
    path = _stopped(rows, tmp_path / "a")
    whole = path.read_bytes()
    places = range(0, len(whole), 331)
    damaged = [whole[:place] for place in places]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    errors = 0
    with pytest.MonkeyPatch.context() as patch:
        _stop_at(patch, 20)  # a whole one would be taken up here
        for content in damaged:
            path.write_bytes(content)
            try:
                train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "a", runtime=Runtime(device="cpu"))
            except StoreError as error:
                errors += str(path) in str(error) and "remove it to train from the start" in str(error)
            except StoppedError:  # the bit that says whose checkpoint it is: training starts anew
                continue
    assert errors >= len(damaged) - 2


def test_a_damaged_checkpoint_can_be_removed(rows: Tensor, tmp_path: Path) -> None:
    path = _stopped(rows, tmp_path / "a")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError):
        train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "a")
    path.unlink()
    train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "a")
    train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "whole")
    assert _files(tmp_path / "a") == _files(tmp_path / "whole")


def test_the_checkpoint_of_another_training_is_not_taken_up(rows: Tensor, tmp_path: Path) -> None:
    _stopped(rows, tmp_path / "a", seed=1)
    train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "a")
    train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "whole")
    assert _files(tmp_path / "a") == _files(tmp_path / "whole")
    assert _beside(tmp_path / "a") == ["whole"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _stopped(rows, tmp_path / "a")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        train(rows, TopK(d_sae=16, k=3), SHORT, out=tmp_path / "a", runtime=ALWAYS)
    assert path.read_bytes() == before


def test_checkpoints_come_as_often_as_asked(rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Checkpoint, "save", lambda _, trainer, **__: saved.append(trainer.step))
    clock, mine, real = (
        iter(range(100_000)),
        threading.get_ident(),
        time.monotonic,
    )  # others' threads go by the real one
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)) if threading.get_ident() == mine else real())
    train(rows, ReLU(d_sae=4), SHORT, out=tmp_path / "a", runtime=Runtime(checkpoint_seconds=9.5, device="cpu"))
    assert saved  # by this clock a checkpoint takes a second, and the next may come 50 seconds later
    assert all(3 <= b - a <= 52 for a, b in itertools.pairwise([0, *saved]))


def test_a_stream_is_written_and_starts_anew(rows: Tensor, tmp_path: Path) -> None:
    def stream() -> Iterator[Tensor]:
        yield from rows.split(10)

    first = train(stream(), TopK(d_sae=16, k=3), out=tmp_path / "a", runtime=ALWAYS)
    assert torch.equal(load(tmp_path / "a").encode(rows), first.encode(rows))
    assert _beside(tmp_path / "a") == []


def test_a_run_that_goes_on_counts_the_seconds_of_all_its_parts(
    rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.save
    earlier = 1000.0

    def later(self: Checkpoint, trainer: Trainer, *, seconds: float, **named: Any) -> None:
        save(self, trainer, seconds=seconds + earlier, **named)

    monkeypatch.setattr(Checkpoint, "save", later)
    _train_until(5, rows, TopK(d_sae=16, k=2), SHORT, out=tmp_path / "a")
    train(rows, TopK(d_sae=16, k=2), SHORT, out=tmp_path / "a", runtime=ALWAYS)
    manifest = read_json(tmp_path / "a" / MANIFEST)
    assert earlier < manifest["details"]["train_seconds"] < 2 * earlier, "once, whatever is saved after it"
    assert manifest["wall_seconds"] > earlier
