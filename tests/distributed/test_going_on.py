"""Captures that are killed go on with another number of processes: the same bytes, and fewer runs of the model."""

import signal
import time
from pathlib import Path

import pytest

from unweave.capture import capture
from unweave.store.artifact import MANIFEST, read_json
from unweave.store.drafts import UNFINISHED

_PROGRAM = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from unweave.capture import capture
from unweave.core.distributed import ranks
sys.path.insert(0, FOLDER)
from made import network, examples
slow, out = float(sys.argv[1]), Path(sys.argv[2])
net, calls = network(), []
def count(*_):
    calls.append(0)
    time.sleep(slow)
net.register_forward_pre_hook(count)
capture(net, examples(sys.argv[3]), at=["0", "1"], batch_size=4, shard_bytes=400, out=out)
(out.parent / f"calls-{ranks().size}-{ranks().rank}").write_text(str(len(calls)))
ranks().close()
"""
_MADE = """
import torch
from torch import nn
X = torch.randn(150, 4, generator=torch.Generator().manual_seed(0))
def network():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    for number, weight in enumerate(net.parameters()):
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(number))
    return net
def examples(kind):
    return X if kind == "tensor" else iter(X.split(4))
"""
_BATCHES = 38


def _content(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes() if path.name != MANIFEST else read_json(path)
        if isinstance(content, dict):
            del content["created"], content["wall_seconds"]
        found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.mark.parametrize(("kind", "first", "second"), [("tensor", 2, 3), ("iterator", 2, 1), ("tensor", 1, 2)])
def test_with_another_number_of_ranks(start, run, tmp_path: Path, kind: str, first: int, second: int) -> None:
    (tmp_path / "made.py").write_text(_MADE)
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.replace("FOLDER", repr(str(tmp_path))))
    scope: dict[str, object] = {}
    exec(_MADE, scope)
    net, examples = scope["network"](), scope["examples"](kind)  # type: ignore[operator]
    capture(net, examples, at=["0", "1"], batch_size=4, shard_bytes=400, out=tmp_path / "right")

    processes = start(first, program, 0.05, tmp_path / "rows", kind)
    until = time.monotonic() + 60
    while any(len(list(tmp_path.glob(f"rows/.{at}.writing-*/{UNFINISHED}/*.json"))) < 3 for at in "01"):
        assert time.monotonic() < until, "no files came"
        time.sleep(0.01)
    processes[-1].send_signal(signal.SIGKILL)
    assert [process.communicate(timeout=60) and process.returncode for process in processes][-1] == -9
    assert not (tmp_path / "rows" / "0").exists()

    ended = run(second, program, 0, tmp_path / "rows", kind)
    assert [code for code, _ in ended] == [0] * second, ended
    assert "Going on from" in ended[0][1]
    calls = sum(int(path.read_text()) for path in tmp_path.glob(f"calls-{second}-*"))
    assert calls < _BATCHES, "less than all of it"
    assert _content(tmp_path / "rows") == _content(tmp_path / "right")
