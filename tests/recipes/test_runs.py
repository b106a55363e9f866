"""A run's folder: what it holds, when it is read back, what it refuses, and that a kill does it no harm."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.recipes import classifier
from unweave.recipes.base import METRICS, RECIPES, RUN, Run, default_folder, execute
from unweave.recipes.classifier import CONTROLS, ClassifierStudy, findings
from unweave.store.artifact import read_manifest

PROMISED = (
    "dictionary/explained_variance",
    "dictionary/l0",
    "dictionary/live",
    "dictionary/dead",
    "dictionary/reconstruction_sum_squares",
    "labels/mutual_information_mean",
    "labels/mutual_information_max",
    "labels/top_class_share_max",
)


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file with its inode, size and time of change."""
    stats = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def test_every_promised_metric_is_there_and_finite(small_run: Run) -> None:
    metrics = read(small_run.folder, METRICS)
    names = [*PROMISED, *(f"{name}@{control}" for name in PROMISED for control in CONTROLS), "model/test_accuracy"]
    assert not set(names) - set(metrics)
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in metrics.values())
    assert metrics == small_run.metrics


def test_counts_add_up(small_run: Run) -> None:
    for suffix in ("", *(f"@{name}" for name in CONTROLS)):
        of = {
            name: small_run.metrics[f"dictionary/{name}{suffix}"] for name in ("live", "dead", "dense", "d_sae", "l0")
        }
        assert of["dense"] <= of["live"] <= of["d_sae"] - of["dead"], suffix
        assert 0 < of["l0"] <= 8, suffix
        assert small_run.metrics[f"dictionary/rows{suffix}"] == 359
        assert small_run.metrics[f"dictionary/explained_variance{suffix}"] < 1
        assert 0 <= small_run.metrics[f"labels/mutual_information_mean{suffix}"] <= math.log2(10)
    assert small_run.metrics["dictionary/d_sae"] == small_run.metrics["dictionary/d_sae@random"] == 128


def test_run_json_says_what_was_run_and_with_what(small_run: Run, small: ClassifierStudy) -> None:
    said = read(small_run.folder, RUN)
    assert said["recipe"] == "digits"
    assert said["seed"] == 5
    assert said["status"] == "complete"
    assert from_json(ClassifierStudy, said["config"]) == small
    assert {"python", "unweave", "torch", "numpy"} <= set(said["versions"])
    assert said["versions"]["torch"] == torch.__version__
    assert {"cpus", "gpu", "device"} <= set(said["hardware"])
    assert said["wall_seconds"] > 0
    assert said["findings"] == small_run.findings != []
    roles = {"model", "activations@train", "activations@test", *(f"sae@{name}" for name in CONTROLS)}
    assert roles | {"sae", "atlas"} | {f"atlas@{name}" for name in CONTROLS} == set(said["artifacts"])
    for path in said["artifacts"].values():
        assert not Path(path).is_absolute()
        read_manifest(small_run.folder / path, verify=True)


def test_nothing_half_written_is_left(small_run: Run) -> None:
    assert not list(small_run.folder.rglob(".*"))


def test_a_finished_run_is_read_back(small_run: Run, small: ClassifierStudy) -> None:
    before, said = snapshot(small_run.folder / "artifacts"), read(small_run.folder, RUN)
    again = execute("digits", small, seed=5, out=small_run.folder)
    assert snapshot(small_run.folder / "artifacts") == before
    assert again.metrics == small_run.metrics
    assert again.findings == small_run.findings
    assert read(small_run.folder, RUN) == said, "how it came about is not changed by reading it back"


def test_the_same_settings_and_seed_give_the_same_bits(small_run: Run, small: ClassifierStudy, tmp_path: Path) -> None:
    execute("digits", small, seed=5, out=tmp_path / "again")
    assert (tmp_path / "again" / METRICS).read_bytes() == (small_run.folder / METRICS).read_bytes()
    for name in ("artifacts/sae/sae_weights.safetensors", "artifacts/model/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (small_run.folder / name).read_bytes(), name


@pytest.mark.parametrize("change", ["seed", "config", "recipe"])
def test_another_run_in_the_folder_is_refused_and_not_harmed(
    small_run: Run, small: ClassifierStudy, change: str
) -> None:
    before = snapshot(small_run.folder)
    recipe = "mnist-mlp" if change == "recipe" else "digits"
    config = replace(small, sae=replace(small.sae, k=7)) if change == "config" else small
    with pytest.raises(InputError, match="another run"):
        execute(recipe, config, seed=6 if change == "seed" else 5, out=small_run.folder)
    assert snapshot(small_run.folder) == before


def test_folders_that_hold_something_else_are_refused(small: ClassifierStudy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / RUN).write_text("[1, 2")
    for name, message in [
        ("file", "is a file"),
        ("file/below", "cannot be made"),
        ("foreign", "not empty and holds no run"),
        ("damaged", "not readable JSON"),
    ]:
        with pytest.raises(InputError, match=message):
            execute("digits", small, out=tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "foreign" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["damaged", "file", "foreign", "notes.txt", RUN]


def test_what_cannot_run_leaves_no_folder(small: ClassifierStudy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes a ClassifierStudy"):
        execute("digits", small.sae, out=tmp_path / "a")
    with pytest.raises(InputError, match="no device"):
        execute("digits", small, out=tmp_path / "a", runtime=Runtime(device="abacus"))
    with pytest.raises(InputError, match=r"no recipe 'digit'.*'digits'"):
        execute("digit", small, out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_wrong_layer_is_found_before_anything_is_trained(small: ClassifierStudy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fc9"):
        execute("digits", replace(small, at="fc9"), out=tmp_path / "a")
    assert not (tmp_path / "a" / "artifacts").exists()


def test_the_default_folder_follows_recipe_settings_and_seed(small: ClassifierStudy) -> None:
    other = replace(small, at="fc1")
    folders = [
        default_folder("digits", small, 0),
        default_folder("digits", small, 1),
        default_folder("digits", other, 0),
    ]
    assert len(set(folders)) == 3
    assert folders[0] == default_folder("digits", replace(small), 0)
    assert folders[0].parent == Path("runs")
    assert folders[0].name.startswith("digits-")


def test_every_recipe_has_a_default_and_presets_that_survive_json() -> None:
    for name, recipe in RECIPES.members().items():
        assert recipe.name == name
        assert recipe.summary
        assert "default" in recipe.presets
        for preset in recipe.presets.values():
            assert from_json(recipe.config, to_json(preset)) == preset


def _check_same(run: Run, whole: Run) -> None:
    for name in (METRICS, "artifacts/sae/sae_weights.safetensors", "artifacts/model/model.safetensors"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert run.findings == whole.findings
    assert read(run.folder, RUN)["status"] == "complete"
    assert not list(run.folder.rglob(".*"))


def test_a_killed_run_ends_as_one_that_was_not(small_run: Run, small: ClassifierStudy, tmp_path: Path) -> None:
    flags = {"--fit.epochs": 2, "--training.epochs": 8, "--analysis.permutations": 19, "--seed": 5}
    flags |= {"--checkpoint-seconds": 0, "--threads": torch.get_num_threads(), "--out": tmp_path / "run"}
    command = [sys.executable, "-m", "unweave.cli.main", "run", "digits"]
    command += [str(part) for flag in flags.items() for part in flag]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    out = tmp_path / "run"
    checkpoint, limit = out / "artifacts" / ".sae.checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    process.kill()
    said = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert checkpoint.exists(), said
    assert read(out, RUN)["status"] == "running"
    assert not (out / METRICS).exists()
    assert not (out / "artifacts" / "sae").exists()
    _check_same(execute("digits", small, seed=5, out=out), small_run)


@pytest.mark.parametrize(("stage", "call"), [("train_classifier", 1), ("capture", 2), ("train", 3), ("analyze", 4)])
def test_a_run_that_was_interrupted_anywhere_goes_on(
    small_run: Run, small: ClassifierStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int
) -> None:
    whole, left = getattr(classifier, stage), [call]

    def interrupted(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return whole(*given, **named)

    monkeypatch.setattr(classifier, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute("digits", small, seed=5, out=tmp_path / "run")
    assert not (tmp_path / "run" / METRICS).exists()
    _check_same(execute("digits", small, seed=5, out=tmp_path / "run"), small_run)


def _metrics(ours: float, **controls: float) -> dict[str, float]:
    share, numbers = "labels/top_class_share_median", {"live": 3.0, "dead": 1.0, "d_sae": 8.0, "l0": 2.0}
    found = {f"dictionary/{name}": value for name, value in numbers.items()}
    return {**found, share: ours, **{f"{share}@{name}": value for name, value in controls.items()}}


def test_findings_say_who_wins() -> None:
    lost = findings(_metrics(0.5, neurons=0.4, pca=0.3, random=0.6), live_share=0.05)
    assert "3 of 8 latents are live (fire on more than 5 % of rows), 1 never fire" in lost[1]
    assert "random directions under the same rule reach 60 %" in lost[2]
    won = findings(_metrics(0.7, neurons=0.4, pca=float("nan"), random=0.6))
    assert "70 % or more" in won[2]
    assert "the best control (random) reaches 60 %" in won[2]
    assert "fire on more than 0.1 % of rows" in won[1]


@pytest.mark.parametrize("metrics", [_metrics(float("nan"), neurons=0.5), _metrics(0.5), {}])
def test_findings_are_silent_about_what_was_not_measured(metrics: dict[str, float]) -> None:
    assert len(findings(metrics)) == 2
