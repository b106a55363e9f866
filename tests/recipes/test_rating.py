"""From a run's atlases to a study: which latents may be drawn, and what their grids show."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unweave.analyze import Atlas
from unweave.core.errors import InputError
from unweave.recipes.base import Run
from unweave.recipes.rating import STUDIES, atlases, study_of_run
from unweave.study import Studying
from unweave.study.grids import arranged

SMALL = Studying(latents=4, images=9, raters=2, repeats=2, skip=8)


def test_a_study_of_a_run(small_run: Run, tmp_path: Path) -> None:
    study = study_of_run(small_run.folder, ["sae", "neurons", "random"], SMALL, seed=2, out=tmp_path / "study")
    key = study.unseal(early=True)
    assert study.plan.conditions == ["sae", "neurons", "random"]
    assert sorted(entry.condition for entry in key.values()) == ["neurons"] * 4 + ["random"] * 4 + ["sae"] * 4
    for item, entry in key.items():
        atlas = Atlas(small_run.artifacts["atlas" if entry.condition == "sae" else f"atlas@{entry.condition}"])
        assert entry.latent >= 8
        assert atlas.column("status")[entry.latent] in {"live", "dense"}
        assert atlas.column("rate")[entry.latent] == pytest.approx(entry.rate)
        pictures = atlas.top_images(entry.latent)
        assert pictures is not None
        shown = np.asarray(Image.open(io.BytesIO(study.grid(item))))
        assert (shown == arranged(pictures[:9])[:, :, 0]).all()


def test_the_same_command_finds_its_study(small_run: Run, tmp_path: Path) -> None:
    run = shutil.copytree(small_run.folder, tmp_path / "run")
    first = study_of_run(run, ["sae", "pca"], Studying(latents=2, images=4, skip=0, repeats=1), seed=2)
    assert first.folder.parent == run / STUDIES
    again = study_of_run(run, ["sae", "pca"], Studying(latents=2, images=4, skip=0, repeats=1), seed=2)
    assert again.folder == first.folder
    other = study_of_run(run, ["pca", "sae"], Studying(latents=2, images=4, skip=0, repeats=1), seed=2)
    assert other.folder != first.folder, "the first condition is compared with the others: order counts"


def test_what_cannot_be_compared_is_named(small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no condition 'neuron': did you mean 'neurons'\?"):
        atlases(small_run.folder, ["sae", "neuron"])
    with pytest.raises(InputError, match="holds no run"):
        atlases(tmp_path, ["sae"])
    (tmp_path / "run.json").write_text('{"status": "running"}')
    with pytest.raises(InputError, match="its run has not ended"):
        atlases(tmp_path, ["sae"])
    with pytest.raises(InputError, match="two or more different conditions"):
        study_of_run(small_run.folder, ["sae"], SMALL, out=tmp_path / "s")
    with pytest.raises(InputError, match="Lower one of the three"):
        study_of_run(small_run.folder, ["sae", "pca"], Studying(latents=64), out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
