import shutil
from pathlib import Path

import pytest
import rank_resume
import torch

from unweave.store.files import load_tensors

_KILL_AT = 7
_NEVER = -1


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "weights.0.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    rank_resume.main(folder, _NEVER)
    return _weights(folder)


def test_a_killed_training_goes_on_with_any_number_of_ranks(run, tmp_path: Path, whole) -> None:
    killed = tmp_path / "two"
    killed.mkdir()
    assert [code for code, _ in run(2, rank_resume.__file__, killed, _KILL_AT)] == [-9, -9]
    ended = {}
    for size in (1, 2, 3):
        folder = tmp_path / f"on with {size}"
        shutil.copytree(killed, folder)
        assert [code for code, _ in run(size, rank_resume.__file__, folder, _NEVER)] == [0] * size
        ended[size] = _weights(folder)
        for name, expected in whole.items():
            torch.testing.assert_close(ended[size][name], expected, rtol=2e-3, atol=2e-4, msg=f"{size} {name}")
    through = tmp_path / "through"
    through.mkdir()
    run(2, rank_resume.__file__, through, _NEVER)
    for name, expected in _weights(through).items():
        assert torch.equal(ended[2][name], expected), f"{name}: two ranks, killed or not, end with the same bits"


def test_one_process_leaves_a_checkpoint_that_two_go_on_from(run, tmp_path: Path, whole) -> None:
    assert [code for code, _ in run(1, rank_resume.__file__, tmp_path, _KILL_AT)] == [-9]
    assert [code for code, _ in run(2, rank_resume.__file__, tmp_path, _NEVER)] == [0, 0]
    for name, expected in whole.items():
        torch.testing.assert_close(_weights(tmp_path)[name], expected, rtol=2e-3, atol=2e-4)
