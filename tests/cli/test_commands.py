"""The commands from end to end, on data and networks that a user brings."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unweave.cli import commands
from unweave.cli.commands import TrainArguments
from unweave.cli.parsing import parse
from unweave.core.config import from_json
from unweave.core.errors import InputError
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.models.classifier import load_model
from unweave.recipes.base import RECIPES, RUN, default_folder
from unweave.store.activations import Activations
from unweave.store.artifact import read_manifest

SMALL = "--fit.epochs 1 --training.epochs 2 --analysis.permutations 9"
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x):
        return self.body(x)
"""


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of a small run's time."""
    monkeypatch.setattr(commands, "build_report", lambda folder: folder / "report.html")


def test_the_chain_leaves_what_it_says(chain: Path) -> None:
    acts, heldout, sae = Activations("acts"), Activations("heldout"), load("sae")
    assert (acts.n, heldout.n, acts.hook_name) == (1438, 359, "fc2")
    assert (sae.d_in, sae.d_sae, sae.hook_name) == (128, 32, "fc2")
    assert sae.config == TopK(d_sae=32, k=4), "--sae.k=4 is read as --sae.k 4 is"
    assert ((sae.encode(heldout.rows(0, 359)) != 0).sum(1) <= 4).all()
    atlas = read_manifest(Path("atlas"))
    assert atlas.inputs["activations"] == heldout.id
    assert "thumbnails.safetensors" in atlas.files
    assert "<img" in Path("atlas-report/report.html").read_text()


def test_the_same_commands_find_their_results(cli: Callable, chain: Path) -> None:
    before = {path: path.stat().st_mtime_ns for name in ("acts", "sae") for path in (chain / name).iterdir()}
    assert cli("capture --at fc2 --out acts").out == "1,438 rows of width 128 from fc2: acts\n"
    assert cli("train acts --sae.d-sae 32 --sae.k 4 --training.epochs 2 --out sae").out.endswith(": sae\n")
    ended = cli("analyze sae heldout --data digits --analysis.permutations 9 --out atlas")
    assert re.search(r"^dictionary/explained_variance +-?0\.\d+$", ended.out, re.MULTILINE)
    assert ended.out.splitlines()[-1] == "Atlas: atlas"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_says_its_findings_and_where_the_page_is(cli: Callable, chain: Path) -> None:
    ended = cli("run digits --out run --fit.epochs 1 --training.epochs 2 --analysis.permutations 9")
    said = json.loads(Path("run", RUN).read_text())
    assert ended.out.splitlines() == [
        *(f"• {text}" for text in said["findings"]),
        f"Report: {chain}/run/report.html",
        "App: unweave serve run",
    ]
    assert ended.err == ""


def test_several_hook_points_get_a_folder_each(cli: Callable, here: Path) -> None:
    assert cli("capture --at fc1 relu2 --split test --out several").code == 0
    assert cli("capture --at fc* --split test --out globbed").code == 0
    assert cli("capture --at rel*2 --split test --out one").code == 0
    assert {path.name for path in (here / "several").iterdir()} == {"fc1", "relu2"}
    assert {path.name for path in (here / "globbed").iterdir()} == {"fc1", "fc2", "fc3"}
    assert Activations("one").hook_name == "relu2"
    assert torch.equal(Activations("several/fc1").rows(0, 9), Activations("globbed/fc1").rows(0, 9))
    assert torch.equal(Activations("several/relu2").rows(0, 9), Activations("one").rows(0, 9))


@pytest.mark.usefixtures("no_report")
def test_a_users_own_network_with_its_weights(cli: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "my_net_for_cli.py").write_text(NET)
    monkeypatch.setattr(sys, "path", [*sys.path])
    weights = {"body.1.weight": torch.eye(3, 64), "body.1.bias": torch.ones(3)}
    save_file({**weights, "body.3.weight": torch.zeros(10, 3), "body.3.bias": torch.zeros(10)}, here / "w.safetensors")
    network = "--model custom --model.factory my_net_for_cli:Net --model.weights w.safetensors"
    ended = cli(f"""capture --at body.1 --out acts --split test {network} --model.arguments '{{"width": 3}}'""")
    assert ended.code == 0, ended.err
    from unweave.datasets.digits import Digits

    pixels = torch.cat([batch.images for batch in Digits().load("test").batches(100)])
    assert torch.allclose(Activations("acts").rows(0, 359), pixels.flatten(1)[:, :3] + 1)
    ended = cli(f"capture --at body.1 --out wide {network}")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "w.safetensors does not fit Net" in ended.err
    out = "--out run --at body.1"
    assert cli(f"run digits --model custom --model.factory my_net_for_cli:Net {out} {SMALL}").code == 0
    assert Activations("run/artifacts/activations@test").d_in == 5


@pytest.mark.usefixtures("no_report")
def test_a_trained_model_by_its_folder(cli: Callable, chain: Path, tmp_path: Path) -> None:
    ended = cli(f"capture --model run/artifacts/model --at fc2 --split test --out {tmp_path}/acts")
    assert ended.code == 0, ended.err
    mine, its = Activations(tmp_path / "acts"), Activations("run/artifacts/activations@test")
    # Batches of another size may differ in the last bits.
    assert torch.allclose(mine.rows(0, mine.n), its.rows(0, its.n), rtol=0, atol=1e-5)
    ended = cli(f"run digits --model run/artifacts/model --out {tmp_path}/run {SMALL} --fit.epochs 0")
    assert ended.code == 0, ended.err
    again, first = load_model(tmp_path / "run/artifacts/model"), load_model(Path("run/artifacts/model"))
    assert again.test_accuracy == first.test_accuracy


def test_a_users_own_images_from_a_relative_folder(cli: Callable, pictures: Path) -> None:
    images = "--data image-folder --data.size 6 --data.channels 1 --data.test-share 0.5 --data-dir data/pictures"
    ended = cli(f"run digits {images} --out run --model.widths 8 8 {SMALL}")
    assert ended.code == 0, ended.err
    said = json.loads(Path("run", RUN).read_text())
    assert said["config"]["data"] == {
        "kind": "image-folder", "size": 6, "channels": 1, "fit": None, "resample": None, "test_share": 0.5,
        "on_broken": "error",
    }  # fmt: skip
    assert "data/pictures" not in json.dumps(said["config"]), "where the data lie is no part of what was asked"
    assert said["data_dir"] == str(Path("data/pictures").absolute()), "but whoever looks at the run finds them"
    assert Activations("run/artifacts/activations@train").class_names == ["dark", "light"]
    assert "light" in Path("run/report.html").read_text()
    (pictures / "dark" / "0.png").write_bytes(b"no image")
    (pictures / "dark" / "1.png").write_bytes(b"no image")
    ended = cli(f"run digits {images} --out other --model.widths 8 8 {SMALL}")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "broken" in ended.err


@pytest.mark.usefixtures("no_report")
def test_another_dictionary_takes_over_what_it_shares(cli: Callable, here: Path) -> None:
    line = f"run digits --sae.decoder-norm free --sae relu --sae.l1=0.5 --out run {SMALL}"
    assert cli(line).code == 0
    preset = RECIPES["digits"].preset("default")
    config = from_json(RECIPES["digits"].config, json.loads(Path("run", RUN).read_text())["config"])
    assert config.sae == ReLU(d_sae=preset.sae.d_sae, l1=0.5, decoder_norm="free")
    assert config.training.batch_size == preset.training.batch_size
    assert load("run/artifacts/sae").d_sae == 128


@pytest.mark.usefixtures("no_report")
def test_a_run_without_a_place_goes_where_it_is_found_again(cli: Callable, here: Path) -> None:
    assert cli(f"run digits {SMALL} --seed -3").code == 0
    (folder,) = (here / "runs").iterdir()
    config = from_json(RECIPES["digits"].config, json.loads((folder / RUN).read_text())["config"])
    assert folder.relative_to(here) == default_folder("digits", config, -3)


def test_names_with_brackets_are_printed_as_they_are(cli: Callable, chain: Path, tmp_path: Path) -> None:
    for name in ("[red]", "[", "a [b] c"):
        out = tmp_path / name / "d"
        ended = cli(f"train acts --sae pca --out '{out}'")
        assert ended.code == 0, ended.err
        assert ended.out.endswith(f": {out}\n")


def test_results_on_standard_output_are_plain(chain: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unweave.cli.main", "train", "acts", "--sae", "pca", "--out", f"{tmp_path}/pca"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"PCADictionary(d_in=128, d_sae=256, PCA(k=32)): {tmp_path}/pca\n"
    assert ended.stderr == ""


def test_version_and_recipes(cli: Callable) -> None:
    assert cli("--version") == (0, f"unweave {version('unweave')}\n", "")
    ended = cli("recipes")
    assert ended.code == 0
    assert "\x1b" not in ended.out
    for name, recipe in RECIPES.members().items():
        assert re.search(rf"^{name} +{', '.join(recipe.presets)}", ended.out, re.MULTILINE)


def test_what_is_carried_over_is_checked_when_all_flags_are_read() -> None:
    default = TrainArguments(activations="a", out=Path("b"), sae=ReLU(d_sae=8))
    given = {"program": "unweave train", "description": ""}
    read = parse(TrainArguments, default, ["--sae", "topk", "--sae.k", "2"], **given)
    assert read.sae == TopK(d_sae=8, k=2)
    with pytest.raises(InputError, match=r"k must lie between 1 and d_sae \(8\), got 32"):
        parse(TrainArguments, default, ["--sae", "topk"], **given)


def test_naming_the_dictionary_that_is_there_already_changes_nothing() -> None:
    default = TrainArguments(activations="a", out=Path("b"), sae=TopK(d_sae=8, k=2))
    read = parse(TrainArguments, default, ["--sae", "topk"], program="unweave train", description="")
    assert read.sae == default.sae
