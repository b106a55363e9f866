"""dictionary_learning: what its own classes compute and save, read by Unweave, and the way back."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats import export, load

peer: ModuleType = pytest.importorskip(
    "dictionary_learning.dictionary", reason="dictionary_learning is not installed; make test-interop installs it"
)
top_k = pytest.importorskip("dictionary_learning.trainers.top_k")
batch_top_k = pytest.importorskip("dictionary_learning.trainers.batch_top_k")
matryoshka = pytest.importorskip("dictionary_learning.trainers.matryoshka_batch_top_k")

SIZES = [(16, 40), (64, 24), (784, 96)]
MAKES: dict[str, Callable[[int, int], Any]] = {
    "AutoEncoder": peer.AutoEncoder,
    "AutoEncoderNew": peer.AutoEncoderNew,
    "GatedAutoEncoder": peer.GatedAutoEncoder,
    "JumpReluAutoEncoder": peer.JumpReluAutoEncoder,
    "AutoEncoderTopK": lambda d, s: top_k.AutoEncoderTopK(d, s, k=7),
    "BatchTopKSAE": lambda d, s: batch_top_k.BatchTopKSAE(d, s, k=7),
    "MatryoshkaBatchTopKSAE": lambda d, s: matryoshka.MatryoshkaBatchTopKSAE(d, s, 7, [s // 4, s // 4, s - s // 4 * 2]),
}


def saved(model: Any, folder: Path, **trainer: Any) -> Path:
    """The two files of a trainer's folder, as its `training.py` writes them."""
    config = {"dict_class": type(model).__name__, "layer": 3, "lm_name": "some/model", "submodule_name": "resid_post_3"}
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {**config, **trainer}, "buffer": {}}))
    return folder


@pytest.mark.parametrize(("d_in", "d_sae"), SIZES)
@pytest.mark.parametrize("name", MAKES)
def test_what_it_computes(name: str, d_in: int, d_sae: int, tmp_path: Path, same: Any, scrambled: Any) -> None:
    model = MAKES[name](d_in, d_sae)
    scrambled(model, seed=d_in)
    if name == "BatchTopKSAE":
        model.threshold.fill_(2.5)
    read = load(saved(model, tmp_path))
    assert (read.d_in, read.d_sae, read.origin["format"]) == (d_in, d_sae, "dictionary-learning")
    same(read, model.encode, model.decode, d_in)


def test_a_threshold_that_was_never_set(tmp_path: Path, same: Any, scrambled: Any) -> None:
    model = batch_top_k.BatchTopKSAE(12, 30, k=4)
    scrambled(model, seed=3)
    assert float(model.threshold) == -1
    same(load(saved(model, tmp_path)), model.encode, model.decode, 12)


def test_after_some_training(tmp_path: Path, same: Any) -> None:
    torch.manual_seed(0)
    trainer = batch_top_k.BatchTopKTrainer(
        steps=40,
        activation_dim=16,
        dict_size=48,
        k=4,
        layer=0,
        lm_name="m",
        threshold_start_step=5,
        warmup_steps=1,
        device="cpu",
    )
    rows = torch.randn(40, 128, 16) + torch.arange(16.0)
    for step, batch in enumerate(rows):
        trainer.update(step, batch)
    assert float(trainer.ae.threshold) > 0
    same(load(saved(trainer.ae, tmp_path)), trainer.ae.encode, trainer.ae.decode, 16)


def test_a_bare_file_without_configuration(tmp_path: Path, same: Any, scrambled: Any) -> None:
    model = peer.GatedAutoEncoder(10, 20)
    scrambled(model, seed=1)
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    same(load(tmp_path / "mine.pt"), model.encode, model.decode, 10)


@pytest.mark.parametrize(
    "config",
    [ReLU(d_sae=20), TopK(d_sae=20, k=3), Gated(d_sae=20), JumpReLU(d_sae=20, target=3), BatchTopK(d_sae=20, k=3)],
    ids=lambda config: config.kind,
)
def test_the_way_back(config: Any, tmp_path: Path, same: Any, scrambled: Any) -> None:
    own: Dictionary = config.build(11)
    scrambled(own, seed=5)
    for tensor in (own.state_dict().get("threshold"),):
        if tensor is not None:
            tensor.abs_().add_(0.1)
    export(own, tmp_path / "out", format="dictionary-learning")
    name = json.loads((tmp_path / "out" / "config.json").read_text())["trainer"]["dict_class"]
    model = MAKES[name](11, 20)
    if name == "AutoEncoderTopK":
        model = top_k.AutoEncoderTopK.from_pretrained(tmp_path / "out" / "ae.pt", k=3) or top_k.AutoEncoderTopK(
            11, 20, 3
        )
    model.load_state_dict(torch.load(tmp_path / "out" / "ae.pt", weights_only=True))
    same(own, model.encode, model.decode, 11)
