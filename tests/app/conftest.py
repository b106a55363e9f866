"""A small finished run whose names try to break pages, and a client that asks the app about it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nicegui", reason="needs the app's extra")

from starlette.testclient import TestClient

from unweave.analyze import Analysis
from unweave.app.guard import Guard
from unweave.app.opened import Library
from unweave.app.server import build
from unweave.app.shelf import Shelf
from unweave.core.progress import silenced
from unweave.datasets.image_folder import ImageFolder
from unweave.dictionaries.topk import TopK
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.recipes.base import execute
from unweave.recipes.classifier import ClassifierStudy
from unweave.train import Training

CLASSES = ("<script>alert(1)<b>", 'a&amp;b" onload="x', "ratio: 1 $x^ [red]")
RUN = "i-run-co-i"


@pytest.fixture(scope="session")
def run_name() -> str:
    """What the run is called in addresses."""
    return RUN


@pytest.fixture(scope="session")
def class_names() -> tuple[str, ...]:
    return CLASSES


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one complete, under a hostile name, with classes of hostile names."""
    images = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (images / name).mkdir()
        for number in range(24):
            pixels = noise.integers(0, 60, (6, 6), dtype=np.uint8)
            pixels[2 * label : 2 * label + 2] += 180
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    config = ClassifierStudy(
        data=ImageFolder(size=6, channels=1, test_share=0.5),
        model=MLP(widths=(16, 16)),
        fit=Fit(epochs=6, batch_size=8),
        sae=TopK(d_sae=24, k=4),
        training=Training(epochs=12, batch_size=8),
        analysis=Analysis(permutations=19, live_share=0.02, top=6),
    )
    place = tmp_path_factory.mktemp("runs")
    with silenced():
        execute("digits", config, seed=3, out=place / "<i>run & 'co'<i>", data_dir=images)
    return place


@pytest.fixture(scope="session")
def library(runs: Path) -> Library:
    return Library(Shelf([runs]))


@pytest.fixture(scope="session")
def client(library: Library) -> Iterator[TestClient]:
    with TestClient(Guard(build(library)), base_url="http://localhost") as asked:
        yield asked


@pytest.fixture(scope="session")
def firing(client: TestClient) -> int:
    """A latent that fires."""
    found = client.get(f"/api/runs/{RUN}/latents", params={"status": "firing", "sort": "rate"}).json()
    return int(found["items"][0]["latent"])
