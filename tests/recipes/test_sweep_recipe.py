"""A small sweep of `digits`: one model, one capture, and artifacts that are those of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unweave.core.errors import InputError
from unweave.core.progress import silenced
from unweave.dictionaries.base import WEIGHTS
from unweave.recipes.base import METRICS, RECIPES, RUN, Run, execute
from unweave.recipes.classifier import ClassifierStudy
from unweave.recipes.grid import Axis, Variant, grid
from unweave.recipes.sweep_recipe import findings, published, sweep_recipe
from unweave.recipes.sweep_result import CSV, PARQUET, SWEEP, Control, Point, Sweep
from unweave.store.artifact import MANIFEST, read_manifest
from unweave.store.rows import TensorRows
from unweave.train import Training
from unweave.train.trainer import Trainer

SEED = 5  # of `small_run`


def sparsities(config: ClassifierStudy, *values: str) -> list[Variant]:
    return grid([config.sae], config.training, [Axis("sae", "k", values)])


@pytest.fixture(scope="module")
def swept(small: ClassifierStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Sweep]:
    """Two sparsities under two seeds; no test may change the folder."""
    folder = tmp_path_factory.mktemp("sweeps") / "small"
    with silenced():
        return sweep_recipe("digits", small, sparsities(small, "4", "8"), seeds=(SEED, 9), seed=SEED, out=folder)


def test_the_model_and_its_rows_are_made_once(swept: tuple[Run, Sweep]) -> None:
    run, found = swept
    roles = {path.name for path in (run.folder / "artifacts").iterdir()}
    names = [f"k={k},seed={seed}" for k in (4, 8) for seed in (SEED, 9)]
    beside = {f"sae@{condition},k={k}" for condition in ("neurons", "pca", "random") for k in (4, 8)}
    assert roles == {"model", "activations@train", "activations@test"} | beside | {
        f"{kind}@{name}" for kind in ("sae", "atlas") for name in names
    }
    assert set(run.artifacts) == roles
    assert [point.name for point in found.points] == names


def test_its_artifacts_are_those_of_a_run(swept: tuple[Run, Sweep], small_run: Run) -> None:
    """`digits` has k 8: with the run's own seed it is the same dictionary, and the same atlas of it."""
    sweep_folder, run_folder = swept[0].folder / "artifacts", small_run.folder / "artifacts"
    for ours, theirs in (
        ("model", "model"),
        ("activations@test", "activations@test"),
        (f"sae@k=8,seed={SEED}", "sae"),
        (f"atlas@k=8,seed={SEED}", "atlas"),
        ("sae@pca,k=8", "sae@pca"),
    ):
        assert read_manifest(sweep_folder / ours).id == read_manifest(run_folder / theirs).id, ours
    weights = [
        (folder / WEIGHTS).read_bytes() for folder in (sweep_folder / f"sae@k=8,seed={SEED}", run_folder / "sae")
    ]
    assert weights[0] == weights[1]


def test_metrics_are_named_by_setting_and_seed(swept: tuple[Run, Sweep], small_run: Run) -> None:
    run, found = swept
    metrics = json.loads((run.folder / METRICS).read_text())
    key = f"dictionary/explained_variance@k=8,seed={SEED}"
    assert metrics[key] == found.points[2].metrics["dictionary/explained_variance"]
    assert metrics[key] == pytest.approx(small_run.metrics["dictionary/explained_variance"], rel=1e-9)
    of_run = small_run.metrics["dictionary/explained_variance@pca"]
    assert metrics["dictionary/explained_variance@pca,k=8"] == pytest.approx(of_run, rel=1e-6)
    assert metrics["model/test_accuracy"] == small_run.metrics["model/test_accuracy"]


def test_the_folder_says_what_it_holds(swept: tuple[Run, Sweep]) -> None:
    run, found = swept
    said = json.loads((run.folder / RUN).read_text())
    assert (said["recipe"], said["seed"], said["status"]) == ("sweep digits", SEED, "complete")
    assert said["sweep"] == [point.name for point in found.points]
    assert {SWEEP, CSV, PARQUET} <= {path.name for path in run.folder.iterdir()}
    assert Sweep.read(run.folder).points == found.points


def test_further_values_join_those_that_are_there(
    small: ClassifierStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = sweep_recipe("digits", small, sparsities(small, "4", "8"), out=tmp_path / "sweep")
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.glob(f"artifacts/*/{MANIFEST}")}
    trained: list[int] = []
    train_batch = Trainer.train_batch

    def counted(self: Trainer, *batch: Any) -> None:
        trained.append(self.dictionary.config.k)
        train_batch(self, *batch)

    monkeypatch.setattr(Trainer, "train_batch", counted)
    _, grown = sweep_recipe("digits", small, sparsities(small, "2", "4"), out=tmp_path / "sweep")
    assert set(trained) == {2}
    assert [point.name for point in grown.points] == ["k=2,seed=0", "k=4,seed=0"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    said = json.loads((tmp_path / "sweep" / RUN).read_text())
    assert said["sweep"] == ["k=2,seed=0", "k=4,seed=0"]
    assert "atlas@k=2,seed=0" in said["artifacts"]
    assert "atlas@k=8,seed=0" not in said["artifacts"]
    took = said["wall_seconds"]
    sweep_recipe("digits", small, sparsities(small, "2", "4"), out=tmp_path / "sweep")
    assert json.loads((tmp_path / "sweep" / RUN).read_text())["wall_seconds"] == took, "it was only read back"


def test_a_folder_of_other_settings_is_refused(
    swept: tuple[Run, Sweep], small: ClassifierStudy, small_run: Run
) -> None:
    other = replace(small, training=Training(epochs=1))
    for config, folder in ((other, swept[0].folder), (small, small_run.folder)):
        with pytest.raises(InputError, match="holds another run"):
            sweep_recipe("digits", config, sparsities(config, "4", "8"), seed=SEED, out=folder)
    with pytest.raises(InputError, match="holds another run"):
        execute("digits", small, seed=SEED, out=swept[0].folder)


def test_a_recipe_without_a_dictionary_of_its_own_is_refused(small: ClassifierStudy) -> None:
    with pytest.raises(InputError, match="has no single dictionary to sweep; choose from: digits, mnist-mlp"):
        sweep_recipe("other", object(), sparsities(small, "4"))


def made(*shares: tuple[str, float, float, float], failed: int = 0, pca: float = 0.8) -> Sweep:
    """A sweep of points (options, seed, explained variance, dead share) with 100 latents."""
    points = []
    for number, (k, seed, explained, dead) in enumerate(shares):
        metrics = {"dictionary/explained_variance": explained, "dictionary/dead": 100 * dead, "dictionary/d_sae": 100.0}
        metrics["dictionary/l0"] = float(k)
        points.append(Point(name=f"k={k},{number}", kind="topk", options={"k": k}, seed=int(seed), metrics=metrics))
    points += [Point(name="k=9,0", kind="topk", options={"k": "9"}, seed=0, error="broke")] * failed
    return Sweep(
        points, [Control(condition="pca", k=4, metrics={"dictionary/explained_variance": pca})], "held-out rows"
    )


def test_findings_say_what_the_numbers_allow() -> None:
    said = findings(made(("4", 0, 0.90, 0.0), ("4", 1, 0.92, 0.0), ("8", 0, 0.75, 0.5), ("8", 1, 0.75, 0.3), failed=1))
    assert said == [
        "Of the variance of held-out rows, k=4 explains the largest share: 91.00 % (± 1.41 over 2 seeds) at L0 4.0. At "
        "the same L0: PCA 80.0 %.",
        "k=8 explains no more than the best of the controls at the same L0.",
        "Seeds alone bring the explained variance of a setting up to 2 percentage points apart (2 in the median): "
        "smaller differences between settings say nothing.",
        "More than a tenth of all latents never fire in k=8 (40 %).",
        "1 of 5 trainings failed: k=9,0: broke",
    ]


def test_what_is_published_is_set_in_the_variance_of_the_rows_where_it_is_about_the_same_layer(tmp_path: Path) -> None:
    config = RECIPES["mnist-mlp"].preset("default")
    rows = TensorRows(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 2)
    (point,) = published("mnist-mlp", config, rows)
    assert point.explained_variance == pytest.approx(1 - 1031.6 / 938 / rows.moments().variance)
    assert published("mnist-mlp", replace(config, at="fc1"), rows) == []
    assert published("digits", RECIPES["digits"].preset("default"), rows) == []
    found = replace(made(("4", 0, 0.9, 0.0)), published=[point])
    found.save(tmp_path)
    assert Sweep.read(tmp_path).published == [point]
    said = findings(found)
    assert said[1].startswith("As published, over the variance of these rows: notebook, epoch 56:")


def test_one_seed_is_called_one_seed() -> None:
    said = findings(made(("4", 0, 0.9, 0.0)))
    assert len(said) == 2
    assert said[1].startswith("One seed each: how far seeds alone bring two dictionaries apart is not known")
