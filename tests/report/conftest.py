"""One small run on the user's own images, whose names try to break the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unweave.analyze import Analysis
from unweave.core.progress import silenced
from unweave.datasets.image_folder import ImageFolder
from unweave.dictionaries.topk import TopK
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.recipes.base import Run, execute
from unweave.recipes.classifier import ClassifierStudy
from unweave.train import Training

HOSTILE = ("<script>alert(1)<b>", 'a&amp;b" onload="x', "ratio: 1 $x^ [red]")


@pytest.fixture(scope="session")
def hostile_names() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run in a folder with a hostile name; tests may make its report, and change nothing else."""
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for label, name in enumerate(HOSTILE):
        (root / name).mkdir()
        for number in range(20):
            pixels = noise.integers(0, 60, (6, 6), dtype=np.uint8)
            pixels[2 * label : 2 * label + 2] += 180
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    config = ClassifierStudy(
        data=ImageFolder(size=6, channels=1, test_share=0.5),
        model=MLP(widths=(16, 16)),
        fit=Fit(epochs=4, batch_size=8),
        sae=TopK(d_sae=24, k=4),
        training=Training(epochs=10, batch_size=8),
        analysis=Analysis(permutations=19, live_share=0.02),
    )
    out = tmp_path_factory.mktemp("runs") / "<i>run & 'co'"
    with silenced():
        return execute("digits", config, seed=3, out=out, data_dir=Path(root))
