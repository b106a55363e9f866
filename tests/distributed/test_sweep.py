from pathlib import Path

import pytest
import rank_sweep
import torch
from safetensors.torch import load_file

from unweave.store.artifact import MANIFEST, read_json


def _files(folder: Path) -> dict[str, object]:
    """Every file's bytes; of manifests what does not tell the time."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == MANIFEST:
            said = {key: value for key, value in read_json(path).items() if key not in {"created", "wall_seconds"}}
            said["details"] = {key: value for key, value in said["details"].items() if key != "train_seconds"}
            found[name] = said
        elif not path.name.startswith(".") and (path.suffix != ".safetensors" or path.parent != folder):
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    rank_sweep.main(folder)
    return folder


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
def test_dictionaries_dealt_out_over_ranks_have_the_bits_of_one_process(run, tmp_path: Path, alone, size) -> None:
    ended = run(size, rank_sweep.__file__, tmp_path)
    assert [code for code, _ in ended] == [0] * size, ended
    expected, files = load_file(alone / "0.safetensors"), _files(alone)
    runs = int(expected.pop("runs"))
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(size)]
    assert sum(int(one.pop("runs")) for one in ranks) == runs, "the model runs as often as for one process"
    for one in ranks:
        assert one.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(one[name], expected[name])] == []
    found = _files(tmp_path)
    assert found.keys() == files.keys()
    assert [name for name in files if found[name] != files[name]] == []


@pytest.mark.parametrize("rows", ["store", pytest.param("stream", marks=pytest.mark.slow)])
def test_a_rank_that_dies_leaves_what_was_finished_and_the_rest_goes_on(run, tmp_path: Path, rows: str) -> None:
    ended = run(2, rank_sweep.__file__, tmp_path, "dies", rows)
    assert ended[1][0] == -9
    assert ended[0][0] != 0
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"*/{MANIFEST}")}
    assert (tmp_path / "10-1" / MANIFEST) in finished
    assert len(finished) < 4
    assert [code for code, _ in run(3, rank_sweep.__file__, tmp_path, "again", rows)] == [0, 0, 0]
    assert len(list(tmp_path.glob(f"*/{MANIFEST}"))) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items()), "none was trained again"


_TINY = [
    "--sae.d-sae",
    "16",
    "--sae.k",
    "1,2",
    "--training.epochs",
    "1",
    "--training.batch-size",
    "256",
    "--seeds",
    "0,1",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [["digits"], ["--stream", "--at", "fc1", "--batch-size", "100"]], ids=["recipe", "stream"]
)
def test_the_command_leaves_what_one_process_leaves(run, tmp_path: Path, what: list[str]) -> None:
    for name, ranks in (("one", []), ("two", ["--ranks", "2"])):
        ((code, said),) = run(1, "-m", "unweave", *ranks, "sweep", *what, *_TINY, "--out", tmp_path / name)
        assert code == 0, said
    one, two = _files(tmp_path / "one"), _files(tmp_path / "two")
    assert one.keys() == two.keys()
    timed = {"run.json", "report.html"}
    assert [name for name in one if one[name] != two[name] and name not in timed] == []
