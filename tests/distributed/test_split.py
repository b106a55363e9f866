import re
from pathlib import Path

import pytest
import rank_split
import rank_training
import torch

from unweave.core.distributed import Ranks
from unweave.core.errors import InputError
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.store.files import load_tensors
from unweave.train.split import Split


@pytest.fixture(scope="module")
def alone():
    return {name: rank_training.numbers(rank_split.trained(config)) for name, config in rank_split.CASES.items()}


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_latents_split_over_ranks_learn_what_one_process_does(run, tmp_path: Path, alone, size: int) -> None:
    ended = run(size, rank_split.__file__, tmp_path)
    assert [code for code, _ in ended] == [0] * size, ended
    wrong = []
    for name, expected in alone.items():
        ranks = [load_tensors(tmp_path / f"{name}.{rank}.safetensors") for rank in range(size)]
        for key, value in expected.items():
            assert all(torch.equal(ranks[0][key], other[key]) for other in ranks[1:]), f"{name} {key}: ranks differ"
            if not torch.allclose(ranks[0][key], value, rtol=2e-3, atol=2e-4):
                wrong.append((name, key, float((ranks[0][key] - value).abs().max())))
    assert not wrong, wrong
    stored = load(tmp_path / "topk")
    assert torch.equal(stored.state_dict()["W_dec"], load_tensors(tmp_path / "topk.0.safetensors")["W_dec"])
    assert not list(tmp_path.glob(".topk*")), "the checkpoint goes when the artifact is in its place"


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (Matryoshka(d_sae=32, k=3), 2, "matryoshka cannot be split over ranks"),
        (TopK(d_sae=32, k=3, resample=0.25), 2, "only without resample"),
        (TopK(d_sae=3, k=1), 4, "3 latents cannot be split over 4 ranks"),
    ],
)
def test_what_cannot_be_split_is_refused(config, size: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Split(config, 5, Ranks(1, size))


def test_parts_are_what_belongs_to_consecutive_latents() -> None:
    whole = {
        "dictionary.W_enc": torch.arange(35).view(5, 7),
        "adam.W_dec.first": torch.arange(35).view(7, 5),
        "adam.b_dec.second": torch.arange(7),
        "dictionary.threshold": torch.tensor(3.0),
        "now": torch.zeros(2, 1),
        "last_fired": torch.arange(14).view(2, 7),
    }
    parts = [Split(TopK(d_sae=7, k=1), 5, Ranks(rank, 3)).part_of(whole) for rank in range(3)]
    for name, axis in {"dictionary.W_enc": 1, "adam.W_dec.first": 0, "last_fired": 1}.items():
        assert torch.equal(torch.cat([part[name] for part in parts], axis), whole[name])
    for name in ("adam.b_dec.second", "dictionary.threshold", "now"):
        assert all(torch.equal(part[name], whole[name]) for part in parts)
