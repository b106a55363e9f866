"""What could harm what is there, or be taken for something else, is refused in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unweave.capture import capture
from unweave.core.config import refuse_not_finite
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.formats import export, load
from unweave.store.activations import Activations

Cli = Callable[[str], tuple[int, str, str]]
SHORT = "--training.steps 2 --sae.d-sae 8 --sae.k 2"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    capture(torch.nn.Sequential(torch.nn.Linear(6, 4)), inputs, at="0", out=tmp_path / "store")
    return tmp_path / "store"


def refused(cli: Cli, line: str, *words: str) -> None:
    code, _, said = cli(line)
    assert code != 0
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: "), said
    for word in words:
        assert word in said, said


def test_a_dictionary_does_not_replace_the_rows_that_it_is_trained_on(store: Path, cli: Cli) -> None:
    for flags in ("", "--overwrite"):
        refused(cli, f"train {store} --out {store} {SHORT} {flags}", "'activations'", "choose another folder")
    assert Activations(store, verify=True).n == 40


def test_nothing_is_made_inside_an_artifact(store: Path, cli: Cli) -> None:
    refused(cli, f"train {store} --out {store}/a/sae {SHORT}", "lies inside the artifact")
    refused(cli, f"capture --at relu1 relu2 --out {store}", "lies inside the artifact")
    refused(cli, f"run digits --out {store}/a", "lies inside the artifact")
    assert not (store / "a").exists()


def test_a_web_page_around_the_folder_is_no_artifact(store: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web app", "icons": []}')
    assert cli(f"train {store} --out {tmp_path}/sae {SHORT}")[0] == 0


@pytest.mark.parametrize("url", ["s3://bucket/sae", "file:///tmp/sae", "memory://a/sae"])
def test_a_url_is_not_taken_for_a_folder(
    store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli, f"train {store} --out {url} {SHORT}", "is a URL")
    refused(cli, f"import {url} --out here", "is a URL")
    refused(cli, f"run digits --out {url}", "is a URL")
    assert cli(f"train {store} --out sae {SHORT}")[0] == 0
    refused(cli, f"export sae --out {url}", "is a URL")
    with pytest.raises(InputError, match="is a URL"):
        export(load("sae"), url, format="unweave")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sae", "store"]


@pytest.mark.parametrize("url", ["s3://", "memory://"])
def test_a_url_without_a_place_is_refused(url: str, cli: Cli) -> None:
    refused(cli, f"capture --at relu1 --out {url}", f"{url} names no place")


@pytest.mark.parametrize(("flag", "said"), [("--std inf", "std is inf"), ("--mean -inf", "mean is -inf")])
def test_settings_that_json_cannot_keep_are_refused(flag: str, said: str, tmp_path: Path, cli: Cli) -> None:
    refused(cli, f"capture --at relu1 --out {tmp_path}/store {flag}", said)
    assert not (tmp_path / "store").exists()


def test_the_field_that_is_not_finite_is_named() -> None:
    with pytest.raises(InputError, match="std is inf, low is nan"):
        refuse_not_finite({"std": [1.0, float("inf")], "of": {"low": float("nan")}})


def test_numbers_beyond_every_machine_are_refused(store: Path, cli: Cli) -> None:
    huge = "1" + 22 * "0"
    refused(cli, f"capture --at relu1 --out x --batch-size {huge}", huge, "too large a number")
    out = store.parent / "sae"
    refused(cli, f"train {store} --out {out} --sae.d-sae {10**13} --sae.k 2", "memory", "does not suffice")
    assert not out.exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_no_time_below_zero_passes_between_checkpoints(seconds: float) -> None:
    with pytest.raises(InputError, match="--checkpoint-seconds must be at least 0"):
        Runtime(checkpoint_seconds=seconds).apply()


def test_the_hub_is_reached_by_a_fresh_process() -> None:
    pytest.importorskip("huggingface_hub")
    code = "import unweave as uw; uw.load('hf://org/repo')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "InputError: hf://org/repo: the hub is switched off by HF_HUB_OFFLINE" in ended.stderr, ended.stderr


def test_a_run_that_was_refused_before_it_began_leaves_its_folder_free(tmp_path: Path, cli: Cli) -> None:
    line = f"run layer --data digits --out {tmp_path}/run --model trained --model.folder"
    refused(cli, f"{line} {tmp_path}/nowhere", "nowhere")
    assert not (tmp_path / "run").exists()


def test_no_examples_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no examples"):
        capture(torch.nn.Sequential(torch.nn.Linear(6, 4)), torch.zeros(0, 6), at="0", out=tmp_path / "store")
    assert not (tmp_path / "store").exists()
