"""`unweave steer`: what it says and leaves, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.steer import MovedAnswers, Response, load_splice
from unweave.store.activations import Activations

MODEL = "run/artifacts/model"
FEW = "--controls 3 --doses 0,1 --unit value"


def test_it_says_what_moved_and_leaves_tables_and_figures(cli: Callable, chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "steered"
    line = f"steer {MODEL} run/artifacts/sae --latents 3,1 {FEW} --examples 50 --out {out}"
    ended = cli(line)
    assert ended.code == 0, ended.err
    assert "of the loss against the mean row is recovered" in ended.out
    assert "random directions" in ended.out
    response = Response(out / "response")
    assert (response.latents, response.doses, response.n) == ([3, 1], [0.0, 1.0], 50)
    assert load_splice(out / "splice").n == 50
    figures = {path.name for path in (out / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("latent-3", "latent-1", "splice") for kind in ("png", "svg")}
    before = (out / "response" / "manifest.json").stat().st_mtime_ns
    assert cli(line).out == ended.out
    assert (out / "response" / "manifest.json").stat().st_mtime_ns == before


def test_a_model_by_name_and_other_options(cli: Callable, chain: Path, tmp_path: Path) -> None:
    options = "--at relu2 --op add --doses=-1,0,1 --unit value --controls 2 --examples 20"
    for number, line in enumerate((f"steer mlp sae {options}", f"steer sae --model mlp {options}")):
        ended = cli(f"{line} --latents 3 --out {tmp_path / str(number)}")
        assert ended.code == 0, ended.err
    first, second = (Response(tmp_path / str(number) / "response") for number in range(2))
    assert (first.doses, first.op, first.manifest.details["hook_name"]) == ([-1.0, 0.0, 1.0], "add", "relu2")
    assert first.table.equals(second.table)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--latents 3", "which model?"),
        (f"{MODEL} --latents 3", "Missing from"),
        (f"{MODEL} run/artifacts/sae", "latents"),
        (f"{MODEL} run/artifacts/sae --latents 3,x", "latents are numbers such as 3,17, got '3,x'"),
        (f"{MODEL} run/artifacts/sae --latents 3 --doses 0,half", "doses are numbers such as 0,0.5,1,2"),
        (f"{MODEL} run/artifacts/sae --latents 3 --examples 0", "--examples must be at least 1"),
        (f"{MODEL} run/artifacts/sae --latents 9999", "there is no latent 9999"),
        (f"{MODEL} run/artifacts/sae --latents 3 --at relu", "has no module 'relu': did you mean"),
        (f"{MODEL} run/artifacts/model --latents 3", "holds an artifact of kind 'model', not 'dictionary'"),
        (f"{MODEL} run/artifacts/sae --latents 3 --decoder sae", "not 'pixel-decoder'"),
        ("nowhere run/artifacts/sae --latents 3", "no folder of that name"),
    ],
)
def test_what_cannot_be_is_refused(cli: Callable, chain: Path, tmp_path: Path, line: str, message: str) -> None:
    ended = cli(f"steer {line} --out {tmp_path / 'out'}")
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert not (tmp_path / "out").exists()


def test_images_that_the_model_does_not_take(cli: Callable, made: Path, pictures: Path) -> None:
    artifacts = made / "run" / "artifacts"
    ended = cli(
        f"steer {artifacts / 'model'} {artifacts / 'sae'} --latents 3 --data image-folder --split train --data-dir "
        f"{pictures} --out out"
    )
    assert ended.code == 2
    assert "the model does not take images [3, 64, 64]" in ended.err
    assert "--data NAME chooses others" in ended.err


OTHER = """
from torch import nn

class Net(nn.Sequential):
    class_names = ["odd", "even", "neither"]

def make():
    return Net(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
"""


def test_a_model_with_classes_of_its_own_is_judged_by_its_own_answers(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(OTHER)
    model = f"--model.factory {tmp_path / 'net.py'}:make"
    for line in (
        f"capture --model custom {model} --at 2 --out {tmp_path / 'acts'}",
        f"train {tmp_path / 'acts'} --sae.d-sae 16 --sae.k 2 --training.steps 20 --out {tmp_path / 'sae'}",
    ):
        assert cli(line).code == 0
    out = tmp_path / "out"
    ended = cli(f"steer custom {tmp_path / 'sae'} {model} --latents 1 {FEW} --examples 30 --out {out}")
    assert ended.code == 0, ended.err
    assert "the model gives the same answer to" in ended.out
    assert Response(out / "response").class_names == ["odd", "even", "neither"]
    assert (out / "figures" / "splice.png").is_file()


def test_its_help_names_the_models(cli: Callable) -> None:
    ended = cli("steer --help")
    assert ended.code == 0
    assert "MODEL DICTIONARY --latents" in ended.out


PATCHES = """
import torch
from torch import nn

class Net(nn.Module):
    class_names = []

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.mix, self.head = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        rows = self.patch(x).flatten(2).transpose(1, 2)
        rows = self.mix(torch.cat([rows.new_ones(len(x), 1, 6), rows], 1))
        return self.head(rows.mean(1))

def make():
    return Net()
"""


def test_a_store_by_position_says_where_its_rows_come_from(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PATCHES)
    store, sae, out = (tmp_path / name for name in ("acts", "sae", "out"))
    model = f"--model custom --model.factory {tmp_path / 'net.py'}:make"
    ended = cli(f"capture {model} --at mix --rows position --prefix drop --grid 2x2+1 --split test --out {store}")
    assert ended.code == 0, ended.err
    layout = Activations(store).layout
    assert layout is not None
    assert (layout.height, layout.width, layout.prefix, layout.prefix_dropped) == (2, 2, 1, True)
    assert cli(f"train {store} --sae.d-sae 16 --sae.k 3 --training.steps 20 --out {sae}").code == 0
    line = f"steer {sae} --activations {store} --latents 2 {FEW} --examples 10 --out {out}"
    ended = cli(line)
    assert ended.code == 0, ended.err
    assert "1 - cosine" in ended.out
    assert "of the variance of its answers is kept" in ended.out
    everywhere = MovedAnswers(out / "moved")
    assert not everywhere.logits
    ended = cli(f"{line}2 --places 0:1")
    assert ended.code == 0, ended.err
    one = MovedAnswers(Path(f"{out}2") / "moved")
    assert one.manifest.config["positions"] == [2]
    assert 0 < one.curve(2, "length")[-1] < everywhere.curve(2, "length")[-1]
    for flags, message in (
        ("--places 5:5", "there is no place (5, 5): the grid is 2 × 2"),
        ("--places 5", "places are ROW:COLUMN"),
        ("--rows flatten --tokens 1", "for rows by position"),
        ("--grid 3x3", "which is no grid of 3 × 3 places"),
        ("--grid 3by3", "a grid is HEIGHTxWIDTH"),
    ):
        ended = cli(f"{line}3 {flags}")
        assert ended.code == 2, ended.err
        assert message in ended.err


@pytest.mark.parametrize("network", ["gpt2", "bert", "sentences"])
def test_texts_are_steered(cli: Callable, tmp_path: Path, network: str) -> None:
    networks = pytest.importorskip("tiny_networks", reason="needs transformers")
    folder, store, sae, out = (tmp_path / name for name in ("net", "acts", "sae", "out"))
    networks.write_network(network, folder)
    texts = tmp_path / "texts.tsv"
    lines = [f"{' '.join(networks.WORDS[n : n + 4])}\t{('no', 'yes')[n % 2]}" for n in range(16)]
    texts.write_text("\n".join(["text\tlabel", *lines]))
    at = {"gpt2": "transformer.h.0", "bert": "bert.encoder.layer.0", "sentences": "encoder.layer.0"}[network]
    for line in (
        f"capture --model pretrained --model.name {folder} --data text-file --data-dir {texts} --at {at} "
        f"--rows position --out {store}",
        f"train {store} --sae.d-sae 16 --sae.k 4 --training.steps 20 --out {sae}",
    ):
        ended = cli(line)
        assert ended.code == 0, ended.err
    ended = cli(f"steer {sae} --activations {store} --latents 3 {FEW} --tokens=-1 --out {out}")
    assert ended.code == 0, ended.err
    found = MovedAnswers(out / "moved")
    assert found.logits == (network != "sentences")
    assert ("its probability" in ended.out) == found.logits
    assert found.manifest.config["positions"] == [-1]
    assert (out / "figures" / "latent-3.png").is_file()
    ended = cli(f"steer {sae} --activations {store} --latents 3 --places 0:0 --out {out}2")
    assert ended.code == 2
    assert "name them by --tokens" in ended.err
