"""A capture that was cut short goes on: the same bytes as one that was not, and the model is not run twice."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from unweave.capture import capture, stores
from unweave.core.distributed import ALONE
from unweave.core.errors import InputError
from unweave.datasets.digits import Digits
from unweave.store.artifact import MANIFEST, read_json
from unweave.store.drafts import UNFINISHED, is_draft
from unweave.store.pieces import read_notes
from unweave.store.shared_writer import SharedWriter

N, BATCH = 96, 8
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 5


class Net(nn.Module):
    """Two hook points of different widths, so that their shards end at different batches; counts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(3, 5), nn.Linear(5, 2)
        with torch.no_grad():
            for seed, weight in enumerate(self.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
        self._said: dict[str, Any] = {"calls": 0, "fails_at": None}

    @property
    def calls(self) -> int:
        return int(self._said["calls"])

    def fails_at(self, call: int | None) -> "Net":
        self._said.update(calls=0, fails_at=call)
        return self

    def count(self) -> None:
        if self._said["calls"] == self._said["fails_at"]:
            raise RuntimeError("no luck")
        self._said["calls"] += 1

    def forward(self, x: Tensor) -> Tensor:
        self.count()
        return self.narrow(self.wide(x.flatten(1)[:, :3]).relu())  # type: ignore[no-any-return]


class Conv(Net):
    """Rows by position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        self.count()
        return self.conv(x)  # type: ignore[no-any-return]


class Once:
    """Batches from a generator, made anew for each capture."""

    def __init__(self, rows: Tensor = X) -> None:
        self.rows = rows

    def __call__(self) -> Iterator[Tensor]:
        yield from self.rows.split([5, 1, *[BATCH] * 11, 2])


SOURCES: dict[str, Callable[[], Any]] = {
    "a tensor": lambda: X,
    "a data set": lambda: Digits().load("test", None),
    "a list": lambda: list(X.split(BATCH)),
    "a loader": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=BATCH),
    "a generator": Once(),
}


def captured(net: Net, examples: Any, out: Path, **settings: Any) -> Any:
    return capture(
        net, examples, out=out, **{"at": ["wide", "narrow"], "batch_size": BATCH, "shard_bytes": 500, **settings}
    )


def content(folder: Path) -> dict[str, Any]:
    """Every file's bytes; of manifests what does not tell the time."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        told = read_json(path) if path.name == MANIFEST else path.read_bytes()
        for time in ("created", "wall_seconds") if path.name == MANIFEST else ():
            del told[time]
        found[path.relative_to(folder).as_posix()] = told
    return found


def cut_short(net: Net, examples: Any, out: Path, call: int, **settings: Any) -> None:
    with pytest.raises(InputError, match="no luck"):
        captured(net.fails_at(call), examples, out, **settings)


def drafts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if is_draft(path) and path.is_dir())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(stores, "say", lines.append)
    return lines


@pytest.mark.parametrize("source", SOURCES)
def test_it_ends_with_the_same_bytes_and_runs_the_model_on_the_rest(source: str, tmp_path: Path) -> None:
    make, net = SOURCES[source], Net()
    captured(net.fails_at(None), make(), tmp_path / "right")
    whole = net.calls
    for call in (0, 1, whole // 2, whole - 1):
        out = tmp_path / str(call)
        cut_short(net, make(), out, call)
        captured(net.fails_at(None), make(), out)
        assert net.calls <= whole - max(0, call - 8), call
        assert content(out) == content(tmp_path / "right")
        assert not drafts(tmp_path)


def test_it_is_cut_short_again_and_again(tmp_path: Path) -> None:
    net = Net()
    captured(net, X, tmp_path / "right")
    for call in (8, 4):
        cut_short(net, X, tmp_path / "out", call)
    captured(net.fails_at(None), X, tmp_path / "out")
    assert net.calls < N // BATCH
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_it_says_where_it_goes_on(tmp_path: Path, said: list[str]) -> None:
    net = Net()
    cut_short(net, X, tmp_path / "out", 7, at="wide")
    captured(net.fails_at(None), X, tmp_path / "out", at="wide")
    assert said == ["Going on from example 48 of 96: 2 files were whole"]
    assert net.calls == 6


def test_shards_that_one_hook_point_has_more_of_are_kept(tmp_path: Path) -> None:
    """A shard of the wide one takes 3 batches, of the narrow one 7: the rest of the seven are run, and stored once."""
    net = Net()
    captured(net, X, tmp_path / "right")
    cut_short(net, X, tmp_path / "out", 8)
    captured(net.fails_at(None), X, tmp_path / "out")
    assert net.calls == N // BATCH - 6
    assert content(tmp_path / "out") == content(tmp_path / "right")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "note"])
def test_a_damaged_shard_of_a_draft_is_made_again(tmp_path: Path, said: list[str], damage: str) -> None:
    net = Net()
    captured(net, X, tmp_path / "right", at="wide")
    cut_short(net, X, tmp_path / "out", 11, at="wide")
    (draft,) = drafts(tmp_path)
    shard, note = draft / "shard-00001.safetensors", sorted((draft / UNFINISHED).glob("*.json"))[1]
    if damage == "flip":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif damage == "remove":
        shard.unlink()
    else:
        note.write_bytes(note.read_bytes()[:-9])
    captured(net.fails_at(None), X, tmp_path / "out", at="wide")
    assert net.calls == 1 + 3 + 3, "the first tells the sizes, then the lost shard, then the rest"
    again = "" if damage == "note" else ", 1 damaged and made again"
    assert said == [f"Going on from example 48 of 96: 2 files were whole{again}"]
    assert content(tmp_path / "out") == content(tmp_path / "right")


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 4},
        {"shard_bytes": 300},
        {"dtype": "float16"},
        {"side": "input"},
        {"mean": (0.5,)},
        {"rows": "pool"},
        {"labels": LABELS},
        {"class_names": ["a"]},
        {"examples": X + 1},
        {"at": "narrow"},
    ],
)
def test_a_draft_of_something_else_is_never_taken_up(tmp_path: Path, said: list[str], other: dict[str, Any]) -> None:
    net = Net()
    settings = {"at": "wide", "out": tmp_path / "out", "examples": X, **other}
    captured(net, **{**settings, "out": tmp_path / "right"})
    cut_short(net, X, tmp_path / "out", 9, at="wide")
    captured(net.fails_at(None), **settings)
    assert not said
    assert content(tmp_path / "out") == content(tmp_path / "right")
    assert not drafts(tmp_path), "an artifact is in the place: nobody goes on with what another has left there"


def test_a_draft_waits_while_another_capture_is_cut_short_too(tmp_path: Path, said: list[str]) -> None:
    net = Net()
    cut_short(net, X, tmp_path / "out", 9, at="wide")
    cut_short(net, X + 1, tmp_path / "out", 9, at="wide")
    assert len(drafts(tmp_path)) == 2
    captured(net.fails_at(None), X, tmp_path / "out", at="wide")
    assert len(said) == 1
    assert not drafts(tmp_path)


def test_a_draft_without_a_whole_shard_is_removed(tmp_path: Path) -> None:
    cut_short(Net(), X, tmp_path / "out", 2)
    assert not drafts(tmp_path)


def test_other_weights_begin_anew(tmp_path: Path, said: list[str]) -> None:
    net = Net()
    cut_short(net, X, tmp_path / "out", 9)
    with torch.no_grad():
        net.wide.bias.add_(1)
    captured(net.fails_at(None), X, tmp_path / "out")
    assert not said
    assert net.calls == N // BATCH


def test_an_overwriting_capture_goes_on_too_and_harms_nothing_until_it_is_whole(tmp_path: Path) -> None:
    net = Net()
    captured(net, X, tmp_path / "right", at="wide")
    captured(net, X + 1, tmp_path / "out", at="wide")
    before = content(tmp_path / "out")
    cut_short(net, X, tmp_path / "out", 9, at="wide", overwrite=True)
    with pytest.raises(InputError, match="overwrite it"):
        captured(net.fails_at(None), X, tmp_path / "out", at="wide")
    assert content(tmp_path / "out") == before
    captured(net.fails_at(None), X, tmp_path / "out", at="wide", overwrite=True)
    assert net.calls < N // BATCH
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_a_loader_that_shuffles_anew_begins_anew(tmp_path: Path, said: list[str]) -> None:
    def loader(seed: int) -> Any:
        order = torch.Generator().manual_seed(seed)
        return DataLoader(TensorDataset(X), batch_size=BATCH, shuffle=True, generator=order)

    net = Net()
    cut_short(net, loader(1), tmp_path / "out", 9)
    store = captured(net.fails_at(None), loader(2), tmp_path / "out")["wide"]
    assert not said
    assert sorted(store.example.tolist()) == list(range(N))
    cut_short(net, loader(1), tmp_path / "same", 9)
    captured(net.fails_at(None), loader(1), tmp_path / "same")
    assert len(said) == 1


def test_other_examples_from_a_generator_are_noticed(tmp_path: Path, said: list[str]) -> None:
    net, other = Net(), X.clone()
    captured(net, Once()(), tmp_path / "right")
    cut_short(net, Once()(), tmp_path / "out", 9)
    captured(net.fails_at(None), Once(X + 1)(), tmp_path / "out")
    assert not said, "the first batch tells"
    other[10] += 1
    cut_short(net, Once()(), tmp_path / "later", 9)
    with pytest.raises(InputError, match="up to batch 3 the examples are not those"):
        captured(net.fails_at(None), Once(other)(), tmp_path / "later")
    captured(net.fails_at(None), Once()(), tmp_path / "later")
    assert content(tmp_path / "later") == content(tmp_path / "right")


def test_a_generator_that_gives_more_or_less_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last shard of the first was cut by its end; the second goes on behind it."""
    net = Net()
    captured(net, iter(X.split(BATCH)), tmp_path / "right")
    with monkeypatch.context() as patch:
        patch.setattr("unweave.store.artifact.manifest_of", lambda *_: (_ for _ in ()).throw(InputError("killed")))
        with pytest.raises(InputError, match="killed"):
            captured(net, iter(X[:80].split(BATCH)), tmp_path / "out")
    with pytest.raises(InputError, match="up to batch 8 the examples are not those"):
        captured(net, iter(X[:64].split(BATCH)), tmp_path / "out")
    captured(net.fails_at(None), iter(X.split(BATCH)), tmp_path / "out")
    assert net.calls < N // BATCH
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_images_of_several_sizes_keep_the_layout_that_all_of_them_have(tmp_path: Path) -> None:
    def images() -> Iterator[Tensor]:
        for number in range(10):
            yield torch.ones(2, 1, 4 if number < 6 else 5, 4) * number

    options = {"at": "conv", "rows": "position", "shard_bytes": 128}
    captured(Conv(), images(), tmp_path / "right", **options)
    cut_short(Conv(), images(), tmp_path / "out", 8, **options)
    captured(Conv(), images(), tmp_path / "out", **options)
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_what_several_processes_left_is_gone_on_with_by_one(tmp_path: Path, said: list[str]) -> None:
    """Parts of several batches, whole and in the middle of shards, as ranks leave them."""
    net = Net()
    captured(net, X, tmp_path / "right", at="wide")
    cut_short(net, X, tmp_path / "out", 9, at="wide")
    (draft,) = drafts(tmp_path)
    notes = draft / UNFINISHED
    piece = read_notes(notes)[1]
    right = captured(net.fails_at(None), X, tmp_path / "other", at="wide")
    (draft / "parts").mkdir()
    writer = SharedWriter(draft, ALONE, dtype="float32", shard_bytes=500, facts=lambda _: {})
    (draft / piece.name).unlink()
    (notes / piece.note).unlink()
    for number in (4, 5, 6, 7, 8):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        block = stores.RowBlock(right.rows(0, N)[rows], right.example[rows], right.position[rows])
        writer.add(number, block, last_of_part=number == 4)
    writer.flush()
    captured(net.fails_at(None), X, tmp_path / "out", at="wide")
    assert net.calls == 1 + 1 + 3, "the first, the one between, and those behind"
    assert len(said) == 1
    assert content(tmp_path / "out") == content(tmp_path / "right")
