"""The embedded default, in full: seconds, no download."""

from pathlib import Path

from unweave.dictionaries.stored import load
from unweave.recipes.base import RECIPES, execute


def test_the_default_preset_explains_the_layer(tmp_path: Path) -> None:
    run = execute("digits", RECIPES["digits"].preset("default"), out=tmp_path / "run")
    metrics = run.metrics
    # Seed 0 gives 0.969 and 0.984; seeds differ by about 0.01 and 0.003.
    assert metrics["model/test_accuracy"] > 0.95
    assert metrics["dictionary/explained_variance"] > 0.97
    assert metrics["dictionary/l0"] <= 8
    assert metrics["dictionary/live"] >= 80
    for control in ("neurons", "random"):
        assert metrics["dictionary/explained_variance"] > metrics[f"dictionary/explained_variance@{control}"] + 0.3
    assert metrics["labels/significant_share"] > 0.5
    assert load(run.artifacts["sae"]).hook_name == "fc2"
