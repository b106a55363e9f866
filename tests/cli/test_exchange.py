"""`unweave import` and `export`; push and pull stand with the hub's tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unweave as uw
from unweave.dictionaries.gelu import GELU
from unweave.dictionaries.topk import TopK

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    made = TopK(d_sae=6, k=2).build(4)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    made.hook_name = "fc2"
    return uw.export(made, tmp_path / "theirs")


def test_there_and_back_says_what_it_is(cli: Run, theirs: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    code, said, _ = cli(f"import {theirs} --out {own}")
    assert (code, said) == (0, f"topk, d_in 4, d_sae 6, hook fc2: {own}\n")
    assert uw.load(own).origin["format"] == "saelens"
    code, said, _ = cli(f"export {own} --out {out} --format saelens")
    assert (code, said) == (0, f"topk, d_in 4, d_sae 6, hook fc2 as saelens: {out}\n")
    assert json.loads((out / "cfg.json").read_text())["k"] == 2
    assert cli(f"import {theirs} --out {own}")[0] == 0  # it is there already
    code, _, err = cli(f"import {theirs} --out {own} --hook other")
    assert (code, "for the hook point 'fc2'; overwrite it" in err) == (2, True)
    assert cli(f"import {theirs} --out {own} --hook other --overwrite")[0] == 0
    assert uw.load(own).hook_name == "other"
    assert cli(f"export {theirs} --out {tmp_path / 'native'} --format unweave")[0] == 0


def test_what_is_wrong_is_one_line(cli: Run, theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    GELU(d_sae=4).build(3).save(tmp_path / "gelu")
    for line, word in {
        f"import {tmp_path / 'nowhere'} --out {tmp_path / 'a'}": "does not exist",
        f"import {tmp_path / 'empty'} --out {tmp_path / 'a'}": "saelens",
        f"import {theirs} --out {tmp_path / 'a'} --format sae": "'sae'",
        f"import {theirs}": "--out",
        f"export {theirs} --out {theirs}": "exists already",
        f"export {theirs} --out {tmp_path / 'a'} --format saelen": "did you mean 'saelens'",
        f"export {tmp_path / 'gelu'} --out {tmp_path / 'a'}": "no architecture",
        f"push {tmp_path / 'empty'} me/it": "neither a dictionary",
        f"pull nothing --out {tmp_path / 'a'}": "no place on the hub",
    }.items():
        code, _, err = cli(line)
        assert code == 2, err
        assert len(err.splitlines()) == 1
        assert word in err
    assert not (tmp_path / "a").exists()
