from pathlib import Path

import pytest
import rank_stream
import torch
from safetensors.torch import load_file

from unweave.core.distributed import ALONE


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("alone")
    rank_stream.main(folder)
    return load_file(folder / "0.safetensors")


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_rank_sees_the_rows_of_one_process_and_the_model_runs_as_often(run, tmp_path: Path, alone, size) -> None:
    ended = run(size, rank_stream.__file__, tmp_path)
    assert [code for code, _ in ended] == [0] * size, ended
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(size)]
    assert all(one.keys() == alone.keys() for one in ranks)
    for name, expected in alone.items():
        if name.startswith("runs"):
            assert sum(int(one[name]) for one in ranks) == int(expected), f"{name}: as often as one process"
        elif name == "trained":
            assert all(torch.equal(one[name], ranks[0][name]) for one in ranks)
            torch.testing.assert_close(ranks[0][name], expected, rtol=2e-3, atol=2e-4)
        else:
            assert [name for one in ranks if not torch.equal(one[name], expected)] == []


_FAILS = """
import sys
import torch
from unweave.capture import StreamedRows
from unweave.cli import main as doors
from unweave.core.distributed import ranks
from unweave.dictionaries.topk import TopK
from unweave.train import Training, train
import rank_stream

class Fails(rank_stream.Counted):
    def forward(self, images):
        if ranks().rank == 1 and self.runs == 6:
            raise ValueError("no more today")
        return super().forward(images)

def work(given, program):
    rows = StreamedRows(Fails(), rank_stream.IMAGES, at="inner.3", batch_size=4, buffer_bytes=800, sample_rows=8)
    train(rows, TopK(d_sae=16, k=2), Training(epochs=5, batch_size=10))

doors.COMMANDS["train"] = work
sys.exit(doors.main(["train"]))
"""

_OTHERS = """
import os, sys
import rank_stream
from unweave.capture import StreamedRows
from unweave.cli import main as doors

class Shuffled(rank_stream.InOrder):
    def __iter__(self):
        batches = list(super().__iter__())
        yield from batches if os.environ["RANK"] == "0" else reversed(batches)

def work(given, program):
    rows = StreamedRows(rank_stream.Counted(), Shuffled(), at="inner.3", sample_rows=4)
    list(rows.batches(10, epoch=0))

doors.COMMANDS["train"] = work
sys.exit(doors.main(["train"]))
"""


_UNREADABLE = """
import os, sys
import rank_stream
from unweave.capture import StreamedRows
from unweave.cli import main as doors
from unweave.core.errors import InputError

class Broken(rank_stream.InOrder):
    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 3 and os.environ["RANK"] == "1":
                raise InputError("this file is no image")
            yield batch

def work(given, program):
    StreamedRows(rank_stream.Counted(), Broken(), at="inner.3").d_in

doors.COMMANDS["train"] = work
sys.exit(doors.main(["train"]))
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        pytest.param(_FAILS, "no more today", id="the model"),
        pytest.param(_OTHERS, "reads other examples than rank 0", id="other examples"),
        pytest.param(_UNREADABLE, "this file is no image", id="a file", marks=pytest.mark.slow),
    ],
)
def test_what_ends_a_stream_on_one_rank_is_said_once(run, script, monkeypatch, program: str, said: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(rank_stream.__file__).parent), prepend=":")
    ended = run(2, script(program))
    text = "".join(text for _, text in ended)
    assert text.count(said) == 1, text
    assert sum(line.startswith("error:") for line in text.splitlines()) == 1, text
    assert all(code for code, _ in ended)


def test_one_process_has_nobody_to_exchange_with() -> None:
    assert ALONE.channel("anything") is None
