"""Reports on single artifacts, on runs without labels, and on models whose code is not at hand."""

import html
import shutil
import sys
from pathlib import Path

import pytest
import torch

from unweave.analyze import Analysis, analyze
from unweave.capture import capture
from unweave.core.errors import StoreError
from unweave.datasets.digits import Digits
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.models.classifier import train_classifier
from unweave.models.custom import Custom
from unweave.models.fitting import Fit
from unweave.recipes.base import Run
from unweave.report import build_report
from unweave.report.drawings import inline
from unweave.store.activations import Activations
from unweave.train import Training, train


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


ATLAS_FIGURES = {"frequencies", "selectivity", "information", "latents", "latents_at_random"}


@pytest.mark.parametrize(
    ("role", "figures"),
    [
        ("atlas", ATLAS_FIGURES),
        ("atlas@random", ATLAS_FIGURES),
        ("sae", {"dictionary_curves"}),
        ("sae@pca", set()),
        ("model", {"model_curves"}),
    ],
)
def test_a_single_artifact_gets_its_page_beside_it(finished: Run, tmp_path: Path, role: str, figures: set[str]) -> None:
    folder = tmp_path / "<b>one & only"
    finished.artifacts[role].rename(folder)
    try:
        before = contents(folder)
        page = build_report(folder)
        assert contents(folder) == before
    finally:
        folder.rename(finished.artifacts[role])
    assert page == tmp_path / "<b>one & only-report" / "report.html"
    assert {path.stem for path in (page.parent / "figures").glob("*")} == figures
    text = page.read_text()
    assert "<b>one" not in text
    assert "<title>&lt;b&gt;one &amp; only · Unweave</title>" in text
    assert ("Explained variance" in text) == role.startswith("atlas")
    assert text.count("<article") == 0 or role.startswith("atlas")


def test_the_folder_may_be_the_one_we_are_in(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.artifacts["sae"])
    assert build_report(".") == finished.folder / "artifacts" / "sae-report" / "report.html"


def test_what_no_report_can_be_made_of_is_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no report on an artifact of kind 'activations'"):
        build_report(finished.artifacts["activations@test"])
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreError, match="no Unweave artifact"):
            build_report(folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("role", ["sae", "sae@pca", "atlas", "model", "activations@test"])
def test_a_flipped_bit_in_any_artifact_of_a_run_is_an_error(finished: Run, tmp_path: Path, role: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    place = run / finished.artifacts[role].relative_to(finished.folder)
    damaged = sorted(place.glob("*.safetensors"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (run / "report.html").unlink(missing_ok=True)
    with pytest.raises(StoreError, match=f"{damaged.name} was changed or damaged"):
        build_report(run)
    if not role.startswith("activations"):
        with pytest.raises(StoreError, match=f"{damaged.name} was changed or damaged"):
            build_report(place)
    assert not (run / "report.html").exists()


def test_rows_without_labels_and_images_have_a_report(finished: Run, tmp_path: Path) -> None:
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    store = capture(torch.nn.Flatten(), images, at="")
    sae = train(store, TopK(d_sae=12, k=2), Training(epochs=2, batch_size=8))
    analyze(sae, store, out=tmp_path / "atlas", analysis=Analysis(permutations=9))
    page = build_report(tmp_path / "atlas")
    text = page.read_text()
    assert "No labels were captured" in text
    assert "<img" not in text
    assert 'class="chart classes"' not in text
    assert "Information, mean" not in text
    assert {path.stem for path in (page.parent / "figures").iterdir()} == {
        "frequencies",
        "latents",
        "latents_at_random",
    }


def test_a_dictionary_that_never_fires_has_a_report(finished: Run, tmp_path: Path) -> None:
    store = Activations(finished.artifacts["activations@test"])
    sae = load(finished.artifacts["sae"])
    with torch.no_grad():
        sae.b_enc.fill_(-1e9)
    atlas = analyze(sae, store, out=tmp_path / "atlas", analysis=Analysis(permutations=9))
    assert atlas.metrics["dictionary/dead"] == 24
    text = build_report(tmp_path / "atlas").read_text()
    assert "<article" not in text
    assert "24 of 24 dead" in text


def test_a_models_code_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone_tomorrow.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = Digits()
    config = Custom(factory="gone_tomorrow:net")
    train_classifier(config, Fit(epochs=1), data.load("train"), data.load("test"), seed=0, out=tmp_path / "model")
    (tmp_path / "gone_tomorrow.py").unlink()
    monkeypatch.delitem(sys.modules, "gone_tomorrow")
    assert "% test accuracy" in html.unescape(build_report(tmp_path / "model").read_text())


def test_inlined_drawings_keep_their_references_apart() -> None:
    svg = (
        '<?xml version="1.0"?>\n<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="36pt" '
        'viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg">\n<metadata>made by</metadata><defs><path id="m1"/>'
        '<clipPath id="p1"/></defs><use xlink:href="#m1" clip-path="url(#p1)" style="fill: #24292f; stroke: #24292f0"/>'
        "</svg>"
    )
    assert inline(svg, "a") == (
        '<svg style="max-width: 97px" viewBox="0 0 72 36">\n<defs><path id="a-m1"/><clipPath id="a-p1"/></defs>'
        '<use xlink:href="#a-m1" clip-path="url(#a-p1)" style="fill: var(--ink); stroke: #24292f0"/></svg>'
    )
