"""The recipe for any layer: small networks of several kinds, from data to page."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from unweave.analyze import Analysis, Atlas
from unweave.core.errors import InputError
from unweave.datasets.digits import Digits
from unweave.datasets.drawn import drawn
from unweave.datasets.text_file import TextFile
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.topk import TopK
from unweave.models.adopted import VisionNet
from unweave.models.cnn import CNN
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.models.preprocess import Preprocess, Steps
from unweave.models.pretrained import Pretrained
from unweave.models.trained import Trained
from unweave.recipes.base import execute
from unweave.recipes.captured import captured_images, captured_model
from unweave.recipes.layer.study import LayerStudy, sized
from unweave.recipes.layer.telling import own_name
from unweave.recipes.sources import source_of
from unweave.report import build_report
from unweave.store.activations import Activations
from unweave.train import Training

QUICK = LayerStudy(
    model=CNN(widths=(8, 12), mean=0.3, std=0.38),
    fit=Fit(epochs=2, batch_size=64),
    examples=200,
    training=Training(steps=30, batch_size=256),
    analysis=Analysis(permutations=19, top=4),
    moved=1,
    moved_examples=20,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The default, made small."""
    return execute("layer", QUICK, out=tmp_path_factory.mktemp("layer") / "run")


def test_every_part_of_the_main_job_stands_beside_its_controls(made):
    for condition in ("", "@neurons", "@pca", "@random", "@untrained"):
        assert f"dictionary/explained_variance{condition}" in made.metrics
        assert Atlas(made.artifacts[f"atlas{condition}"]).layout.height == 4
    for condition in ("", "@neurons", "@pca", "@random"):
        assert made.metrics[f"splice/agreement_spliced{condition}"] >= 0
    assert "labels/mutual_information_mean@misaligned" in made.metrics
    assert made.metrics["steering/latents"] == 1
    assert [section.title for section in made.sections] == [
        "What is looked at",
        "Does the model still answer as before?",
        "What does moving a latent do?",
    ]
    assert "a grid of 4 × 4 places" in str(made.sections[0].tables)


def test_its_page_shows_places_and_the_recipes_sections(made):
    page = build_report(made.folder).read_text()
    for said in ("Does the model still answer as before?", "The dictionary and its controls", 'class="cards wide"'):
        assert said in page
    assert "colours from 0 to" in page
    assert "untrained</b>: the same dictionary" in page


def test_the_same_command_again_computes_nothing_anew(made):
    before = json.loads((made.folder / "metrics.json").read_text())
    stamps = {path: path.stat().st_mtime_ns for path in made.folder.glob("artifacts/*/manifest.json")}
    execute("layer", QUICK, out=made.folder)
    assert json.loads((made.folder / "metrics.json").read_text()) == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_the_images_that_were_drawn_and_the_model_are_found_again(made):
    store = Activations(made.artifacts["activations@test"])
    run = json.loads((made.folder / "run.json").read_text())
    assert captured_images(run, store).id == store.manifest.inputs["examples"]
    folder, _ = captured_model([made.artifacts["model"]], store)
    assert folder == made.artifacts["model"]


def test_rows_that_are_whole_examples_have_no_places(tmp_path):
    config = dataclasses.replace(QUICK, model=MLP(widths=(16,)), at="fc1", rows="flatten", moved=0)
    run = execute("layer", config, out=tmp_path / "run")
    assert "places/largest_part" not in run.metrics
    assert 'class="cards"' in build_report(run.folder).read_text()


def test_a_layer_that_is_not_there_is_named_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="no module 'relu9'"):
        execute("layer", dataclasses.replace(QUICK, at="relu9"), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("rows", "width", "d_sae", "k"),
    [(1_000_000, 768, 4096, 64), (23_000, 64, 512, 8), (100, 3, 16, 4), (320, 4096, 16, 64)],
)
def test_sizes_follow_from_the_rows(rows, width, d_sae, k):
    found = sized(QUICK, rows, width)
    assert isinstance(found, BatchTopK)
    assert (found.d_sae, found.k) == (d_sae, min(k, d_sae // 2))
    given = dataclasses.replace(QUICK, sae=TopK(d_sae=99, k=9), sizes="given")
    assert sized(given, rows, width) == given.sae


def test_what_is_drawn_keeps_order_labels_and_pixels():
    whole = Digits().load("test")
    some = drawn(whole, 50, 3)
    assert (len(some), drawn(whole, 10_000, 3) is whole) == (50, True)
    assert some.id == drawn(whole, 50, 3).id != drawn(whole, 50, 4).id
    index = [
        int((whole.pixels(torch.arange(len(whole))) == some.pixels(torch.tensor([i]))).all((1, 2, 3)).nonzero()[0])
        for i in (0, 49)
    ]
    assert index[0] < index[1]
    assert [int(whole.labels[i]) for i in index] == [int(some.labels[i]) for i in (0, 49)]


@pytest.mark.parametrize("wrong", [{"examples": 1}, {"moved": -1}, {"moved_examples": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        dataclasses.replace(QUICK, **wrong)


def test_a_network_is_called_what_its_own_library_calls_it():
    assert own_name(VisionNet(nn.Sequential(nn.Flatten()), Preprocess(Steps(), 1))) == "Sequential"
    timm_net = nn.Sequential(nn.Flatten())
    timm_net.pretrained_cfg = {"architecture": "resnet50d"}
    assert own_name(VisionNet(timm_net, Preprocess(Steps(), 1))) == "resnet50d (Sequential)"
    assert own_name(nn.Linear(2, 2)) == "Linear"


def test_a_store_of_a_network_that_was_trained_here_says_where_it_lies(made):
    source = source_of(Activations(made.artifacts["activations@test"]))
    assert source.model == Trained(folder=made.artifacts["model"].resolve())
    assert source.split == "test"


def test_next_tokens_are_moved_on_the_page_too(tmp_path):
    networks = pytest.importorskip("tiny_networks", reason="needs transformers")
    networks.write_network("gpt2", tmp_path / "net")
    lines = [" ".join(networks.WORDS[n : n + 5]) for n in range(15)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    study = dataclasses.replace(
        QUICK,
        data=TextFile(),
        model=Pretrained(name=str(tmp_path / "net")),
        at="transformer.h.0",
        sae=TopK(d_sae=16, k=4),
        sizes="given",
    )
    run = execute("layer", study, out=tmp_path / "run", data_dir=tmp_path / "texts.txt")
    moves = next(section for section in run.sections if section.title == "What does moving a latent do?")
    assert "divergence" in moves.text
    assert any("random directions, any" in str(table) for table in moves.tables)
    assert [shown.figure.split("-")[0] for shown in moves.figures] == ["moved"]
    assert "GPT2LMHeadModel, the next of 40 tokens" in str(run.sections[0].tables)
    assert 0 <= run.metrics["splice/agreement_spliced"] <= 1
    assert run.metrics["steering/latents"] == 1
