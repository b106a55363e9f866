"""The faces experiment: whole on small generated folders, and at its goal for real photos."""

import json
import math
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unweave.analyze import Analysis
from unweave.cli.main import main
from unweave.core.errors import InputError
from unweave.core.progress import silenced
from unweave.datasets.photos import Photos
from unweave.dictionaries.topk import TopK
from unweave.models.resnet18 import ResNet18
from unweave.recipes.base import RECIPES, Run, execute
from unweave.recipes.faces import DEFAULT, PUBLISHED, Faces
from unweave.recipes.faces.published import cheapest_loss
from unweave.recipes.query import open_run
from unweave.report import build_report
from unweave.train import Training

ROLES = {
    "model",
    "model@untuned",
    "activations@train",
    "activations@test",
    "sae",
    "atlas",
    *(f"{what}@{name}" for what in ("sae", "atlas") for name in ("neurons", "pca", "random")),
}


def paint(folder: Path, count: int, generator: np.random.Generator, bright: bool) -> list[Path]:
    """Images with a bright or a dark sky over noise."""
    folder.mkdir(parents=True)
    made = []
    for _ in range(count):
        pixels = generator.integers(60, 190, (36, 32, 3))
        pixels[:14] = generator.integers(200, 255) if bright else generator.integers(0, 50)
        made.append(folder / f"{len(list(folder.iterdir())):06}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(made[-1])
    return made


@pytest.fixture(scope="module")
def small() -> Faces:
    return replace(
        DEFAULT,
        model=ResNet18(weights="random"),
        fit=replace(DEFAULT.fit, least_steps=2, batch_size=32, precision="float32"),
        data=Photos(test_share=0.5),
        sae=TopK(d_sae=12, k=6),
        training=Training(epochs=3, batch_size=32),
        analysis=Analysis(permutations=9),
        checked=12,
        shown=2,
        queries=2,
        permutations=9,
    )


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without classes, at two depths."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paint(root / "all" / "a", 45, generator, bright=True)
    paint(root / "all" / "b", 45, generator, bright=False)
    return root


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebA's layout: 60 train and 40 test images, of which every other has a bright sky."""
    root, generator = tmp_path_factory.mktemp("celeba"), np.random.default_rng(1)
    bright = {path.name for path in paint(root / "bright", 50, generator, bright=True)}
    rows, parts = ["image_id,Bright,Odd,Never"], ["image_id,partition"]
    paint(root / "dark", 50, generator, bright=False)
    (root / "img_align_celeba").mkdir()
    for number in range(100):
        kind = "bright" if number % 2 else "dark"
        name = f"{number:06}.png"
        (root / kind / f"{number // 2:06}.png").rename(root / "img_align_celeba" / name)
        rows.append(f"{name},{1 if number % 2 else -1},{1 if number % 3 else -1},-1")
        parts.append(f"{name},{0 if number < 60 else 2}")
    assert len(bright) == 50
    (root / "list_attr_celeba.csv").write_text("\n".join(rows))
    (root / "list_eval_partition.csv").write_text("\n".join(parts))
    return root


@pytest.fixture(scope="module")
def run(small: Faces, loose: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with silenced():
        return execute("faces", small, out=tmp_path_factory.mktemp("faces") / "run", data_dir=loose)


@pytest.fixture(scope="module")
def of_celeba(small: Faces, celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    config = replace(
        small,
        data=Photos(size=32, attribute="Bright"),
        fit=replace(PUBLISHED.fit, batch_size=32),
        sae=replace(PUBLISHED.sae, d_sae=32),
        training=replace(PUBLISHED.training, epochs=2, batch_size=32),
    )
    with silenced():
        yield execute("faces", config, out=tmp_path_factory.mktemp("faces") / "celeba", data_dir=celeba)


def test_a_folder_without_classes_is_enough(run: Run) -> None:
    assert set(run.artifacts) >= ROLES
    written = json.loads((run.folder / "metrics.json").read_text())
    for name in (
        "tuning/loss",
        "embedding/effective_rank",
        "embedding/effective_rank@untuned",
        "grids/likeness@chance",
    ):
        assert math.isfinite(written[name])
    assert not any(name.startswith("labels/") for name in written)
    assert "embedding/neighbour_accuracy" not in written


def test_random_weights_are_said_first_and_loudly(run: Run) -> None:
    assert run.findings[0].startswith("WARNING: no trained weights were at hand")
    assert run.metrics["model/pretrained"] == 0


def test_the_page_shows_every_figure_and_how_to_rate(run: Run) -> None:
    page = build_report(run.folder).read_text()
    shown = {figure.figure for section in run.sections for figure in section.figures}
    assert shown >= {"tuning", "embedding", "dictionary", "frequencies", "nearest"}
    for name in shown:
        assert f'<figure id="{name}">' in page
    assert "unweave study new" in page or "unweave study serve" in page
    assert "WARNING" in page


def test_a_finished_run_is_read_back_with_the_same_numbers(run: Run, small: Faces, loose: Path) -> None:
    made = {role: (path / "manifest.json").stat().st_mtime_ns for role, path in run.artifacts.items()}
    with silenced():
        again = execute("faces", small, out=run.folder, data_dir=loose)
    assert again.metrics == run.metrics
    assert again.findings == run.findings
    assert made == {role: (path / "manifest.json").stat().st_mtime_ns for role, path in again.artifacts.items()}


def test_one_s_own_image_can_be_asked_about(run: Run, loose: Path) -> None:
    asked = open_run(run.folder)
    images = asked.images(loose)
    assert images.id == asked.activations.manifest.inputs["examples"]
    image = asked.image(loose / images.names[3])
    found = asked.ask(image.float() / 255, nearest=3)
    assert found.examples[0] == 3
    assert found.similarities[0] == pytest.approx(1, abs=1e-4)


def test_celebas_attributes_are_told_with_their_null(of_celeba: Run) -> None:
    numbers = of_celeba.metrics
    assert 0 < numbers["attributes/average_precision_mean"] <= 1
    assert {f"attributes/beyond_null@{name}" for name in ("neurons", "pca", "random")} <= set(numbers)
    (section,) = [one for one in of_celeba.sections if "attributes" in one.title]
    assert {row[0] for row in section.tables[0].rows} == {"Bright", "Odd"}, "what no image has cannot be found"
    bright = next(row for row in section.tables[0].rows if row[0] == "Bright")
    assert float(bright[3]) > float(bright[1].removesuffix(" %")) / 100
    assert "labels/top_class_share_median" in numbers


def test_the_published_form_shows_what_was_wrong_with_it(of_celeba: Run) -> None:
    numbers = of_celeba.metrics
    assert numbers["published/negative_entries"] == 0
    assert numbers["published/negative_turned_cosines"] == 0
    assert 300 < numbers["published/start_error"] < 450
    assert numbers["published/encoder_cosine_with_start"] > 0.999
    assert numbers["tuning/loss"] == pytest.approx(numbers["tuning/contrastive"] + numbers["tuning/orientation"])


def test_the_cheapest_published_loss_is_a_minimum() -> None:
    s, contrastive, orientation = cheapest_loss(128, 512)

    def loss(squared: float) -> float:
        return math.log1p(127 * math.exp(-squared)) + 2 * squared / 512

    assert contrastive + orientation == pytest.approx(loss(s))
    assert loss(s) < min(loss(s - 0.1), loss(s + 0.1))
    assert loss(s) == pytest.approx(0.0445, abs=1e-4)
    assert loss(s) < 0.0944


@pytest.mark.parametrize(
    ("change", "message"),
    [({"checked": 3}, "checked must be at least 8"), ({"shown": 0}, "shown must be at least 1")],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(DEFAULT, **change)


def test_images_is_another_name_of_the_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--images", "--data-dir"):
        assert main(["run", "faces", flag, str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
        assert "nowhere is not a folder: give one that holds images" in capsys.readouterr().err


def test_presets_are_what_they_should_be() -> None:
    recipe = RECIPES["faces"]
    assert set(recipe.presets) == {"default", "published"}
    assert PUBLISHED.sae.d_sae == 512
    assert (PUBLISHED.training.learning_rate, PUBLISHED.training.batch_size, PUBLISHED.training.epochs) == (
        1e-5,
        512,
        30,
    )


@pytest.mark.slow
def test_real_photos_in_under_five_minutes(data_dir: Path, tmp_path: Path) -> None:
    """5,000 photos of 32 × 32 without trained weights, on two cores; ranges hold three seeds, widened by a fifth."""
    archive = data_dir / "cifar10-5000.tar"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    config = replace(DEFAULT, model=ResNet18(weights="random"))
    started = time.process_time()
    with silenced():
        run = execute("faces", config, out=tmp_path / "run", data_dir=tmp_path / "cifar10-5000")
    spent = time.process_time() - started
    numbers = run.metrics
    assert numbers["embedding/neighbour_accuracy"] > 1.1 * numbers["embedding/neighbour_accuracy@untuned"]
    assert numbers["embedding/matched_views"] > 1.5 * numbers["embedding/matched_views@untuned"]
    assert numbers["dictionary/explained_variance"] > numbers["dictionary/explained_variance@pca"]
    assert numbers["dictionary/explained_variance"] > 0.9
    assert numbers["grids/likeness"] > 0.05 > numbers["grids/likeness@chance"]
    assert spent < 600, f"{spent:.0f} CPU seconds are more than five minutes of two cores"
