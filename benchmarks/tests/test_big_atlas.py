"""The large run folder, made small: what it holds is what a run holds."""

from pathlib import Path

import numpy as np

from benchmarks.big_atlas import Plan, build
from unweave import Atlas
from unweave.analyze.related import coactive_latents, similar_latents
from unweave.dictionaries.stored import load
from unweave.store.artifact import read_json

SMALL = Plan(d_sae=320, d_in=256, rows=800, l0=4, side=8, permutations=9)


def test_it_is_a_run_whose_latents_are_what_was_planted(tmp_path: Path) -> None:
    """Examples with pictures, families that resemble each other and prefer a class; read back, not made again."""
    run = build(tmp_path / "big", SMALL)
    assert read_json(tmp_path / "big" / "run.json")["artifacts"] == {
        role: f"artifacts/{role}" for role in ("activations@test", "sae", "atlas")
    }
    assert run.metrics["dictionary/explained_variance"] > 0.6
    atlas, sae = Atlas(run.artifacts["atlas"]), load(run.artifacts["sae"])
    latent = int(atlas.column("count").argmax())
    pictures = atlas.top_images(latent)
    assert pictures is not None
    assert pictures.shape == (16, 3, 8, 8)
    assert similar_latents(sae.directions(), latent, most=1).latent // 16 == latent // 16
    assert len(coactive_latents(atlas, latent).latent) == 12
    assert np.median(atlas.column("top_class_share")[atlas.column("count") > 3]) > 0.2
    assert build(tmp_path / "big", SMALL).metrics == run.metrics
