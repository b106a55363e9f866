from pathlib import Path

import pytest
import rank_training
import torch

from unweave.store.files import load_tensors

_NAMES = list(rank_training.cases())


@pytest.fixture(scope="module")
def alone():
    return {name: rank_training.numbers(rank_training.trained(*case)) for name, case in rank_training.cases().items()}


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_kind_reaches_the_same_weights_as_one_process(run, tmp_path: Path, alone, size: int) -> None:
    ended = run(size, rank_training.__file__, tmp_path)
    assert [code for code, _ in ended] == [0] * size, ended
    wrong = []
    for name in _NAMES:
        ranks = [load_tensors(tmp_path / f"{name}.{rank}.safetensors") for rank in range(size)]
        for key, expected in alone[name].items():
            assert all(torch.equal(ranks[0][key], other[key]) for other in ranks[1:]), f"{name} {key}: ranks differ"
            got = ranks[0][key]
            if got.shape != expected.shape or not torch.allclose(got, expected, rtol=2e-3, atol=2e-4):
                wrong.append((name, key, float((got - expected).abs().max()), float(expected.abs().max())))
    assert not wrong, wrong
