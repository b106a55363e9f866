"""Our folders in SAELens, and SAELens' folders in ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed; make test-interop brings it")

from sae_lens import (  # noqa: E402
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)

from unweave.core.errors import InputError  # noqa: E402
from unweave.dictionaries.base import Dictionary, DictionaryConfig  # noqa: E402
from unweave.formats import export, load  # noqa: E402
from unweave.store.rows import TensorRows  # noqa: E402
from unweave.testing import example  # noqa: E402

Same = Callable[..., None]
Scramble = Callable[[nn.Module, int], None]
D_IN, D_SAE = 24, 40
KINDS = DictionaryConfig.registry.members()
WITHOUT_A_WORD = {"gelu", "kmeans", "nmf", "semi-nmf"}


def _fitted(kind: str) -> Dictionary:
    """A dictionary whose weights, biases and thresholds are all something."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(300, D_IN, generator=generator) * torch.linspace(0.2, 2, D_IN)
    dictionary = example(KINDS[kind]).build(D_IN)
    dictionary.prepare(TensorRows(rows), torch.Generator().manual_seed(2))
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.add_(noise.abs() if name == "threshold" else noise)
        if "threshold" in dict(dictionary.named_buffers()):
            dictionary.get_buffer("threshold").fill_(0.2)
    return dictionary.to_inference()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - WITHOUT_A_WORD))
@pytest.mark.parametrize("how", ["saved", "exported"])
def test_saelens_loads_our_folder_as_it_is(kind: str, how: str, same: Same, tmp_path: Path) -> None:
    dictionary = _fitted(kind)
    dictionary.hook_name = "blocks.3.mlp"
    if how == "saved":
        dictionary.save(tmp_path / "sae")
    else:
        export(dictionary, tmp_path / "sae")
    theirs = SAE.load_from_disk(tmp_path / "sae")
    assert theirs.cfg.metadata.hook_name == "blocks.3.mlp"
    assert theirs.cfg.metadata.sae_lens_version == "6.0.0"
    same(dictionary, theirs.encode, theirs.decode, D_IN)


@pytest.mark.parametrize("kind", sorted(WITHOUT_A_WORD))
def test_what_saelens_has_no_word_for_it_refuses_by_name(kind: str, tmp_path: Path) -> None:
    _fitted(kind).save(tmp_path / "sae")
    with pytest.raises(KeyError, match=f"unweave-{kind}"):
        SAE.load_from_disk(tmp_path / "sae")


def _inference(cls: Any, config: Any, **options: Any) -> Any:
    return cls(config(d_in=D_IN, d_sae=D_SAE, **options))


THEIRS: dict[str, Callable[[], Any]] = {
    "standard": lambda: _inference(StandardSAE, StandardSAEConfig),
    "standard, rows as they come": lambda: _inference(StandardSAE, StandardSAEConfig, apply_b_dec_to_input=False),
    "topk": lambda: _inference(TopKSAE, TopKSAEConfig, k=5),
    "topk by norm": lambda: _inference(TopKSAE, TopKSAEConfig, k=5, rescale_acts_by_decoder_norm=True),
    "topk in training": lambda: _inference(TopKTrainingSAE, TopKTrainingSAEConfig, k=5),
    "jumprelu": lambda: _inference(JumpReLUSAE, JumpReLUSAEConfig),
    "jumprelu, rows as they come": lambda: _inference(JumpReLUSAE, JumpReLUSAEConfig, apply_b_dec_to_input=False),
    "gated": lambda: _inference(GatedSAE, GatedSAEConfig),
    "gated, rows as they come": lambda: _inference(GatedSAE, GatedSAEConfig, apply_b_dec_to_input=False),
}


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_we_load_what_saelens_saves(name: str, same: Same, scrambled: Scramble, tmp_path: Path) -> None:
    theirs = THEIRS[name]()
    scrambled(theirs, 3)
    theirs.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    theirs.cfg.metadata.model_name = "gpt2"
    theirs.save_model(tmp_path / "sae")
    ours = load(tmp_path / "sae")
    assert ours.hook_name == "blocks.3.hook_resid_post"
    assert ours.origin["model_name"] == "gpt2"
    same(ours, theirs.encode, theirs.decode, D_IN)
    ours.save(tmp_path / "own")
    again = SAE.load_from_disk(tmp_path / "own")
    same(ours, again.encode, again.decode, D_IN)


def _by_row(mode: str, **options: Any) -> dict[str, Any]:
    pursuit = {"max_iterations": 4, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
    same = {"normalize_activations": mode, **options}
    return {
        "standard": _inference(StandardSAE, StandardSAEConfig, **same),
        "topk": _inference(TopKSAE, TopKSAEConfig, k=5, **same),
        "topk by norm": _inference(TopKSAE, TopKSAEConfig, k=5, rescale_acts_by_decoder_norm=True, **same),
        "jumprelu": _inference(JumpReLUSAE, JumpReLUSAEConfig, **same),
        "gated": _inference(GatedSAE, GatedSAEConfig, **same),
        "matching_pursuit": _inference(
            sae_lens.MatchingPursuitSAE, sae_lens.MatchingPursuitSAEConfig, **pursuit, **same
        ),
    }


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("mode", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", sorted(_by_row("none")))
def test_rows_that_are_normalised_one_by_one(
    name: str, mode: str, centred: bool, same: Same, scrambled: Scramble, tmp_path: Path
) -> None:
    theirs = _by_row(mode, apply_b_dec_to_input=centred)[name]
    scrambled(theirs, 8)
    if name == "matching_pursuit":  # the pursuit is defined for directions of length 1
        theirs.W_dec.data /= theirs.W_dec.data.norm(dim=1, keepdim=True)
    theirs.save_model(tmp_path / "sae")
    ours = load(tmp_path / "sae")
    assert ours.row_norm == mode
    same(ours, theirs.encode, theirs.decode, D_IN, zeros=False)
    rows = torch.randn(20, D_IN, generator=torch.Generator().manual_seed(1)) + 3
    with torch.no_grad():
        torch.testing.assert_close(ours(rows), theirs(rows), atol=1e-5 * float(rows.abs().max()), rtol=1e-5)
    ours.save(tmp_path / "own")
    export(ours, tmp_path / "out")
    for folder in ("own", "out"):
        again = SAE.load_from_disk(tmp_path / folder)
        assert again.cfg.normalize_activations == mode
        same(ours, again.encode, again.decode, D_IN, zeros=False)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_batch_topk_is_what_saelens_makes_of_it_after_training(
    nested: bool, norm: bool, same: Same, scrambled: Scramble, tmp_path: Path
) -> None:
    options = {"d_in": D_IN, "d_sae": D_SAE, "k": 4, "rescale_acts_by_decoder_norm": norm}
    if nested:
        config = MatryoshkaBatchTopKTrainingSAEConfig(matryoshka_widths=[10, D_SAE], **options)
        theirs: Any = MatryoshkaBatchTopKTrainingSAE(config)
    else:
        theirs = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**options))
    scrambled(theirs, 4)
    theirs.topk_threshold.fill_(0.4)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "inference")
    inference = SAE.load_from_disk(tmp_path / "inference")
    for folder in ("training", "inference"):
        ours = load(tmp_path / folder)
        assert ours.config.kind == "jumprelu"
        same(ours, inference.encode, inference.decode, D_IN)


def test_a_jumprelu_in_training_has_its_threshold(same: Same, scrambled: Scramble, tmp_path: Path) -> None:
    theirs = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE))
    scrambled(theirs, 5)
    theirs.save_inference_model(tmp_path / "sae")
    inference = SAE.load_from_disk(tmp_path / "sae")
    same(load(tmp_path / "sae"), inference.encode, inference.decode, D_IN)


LEGACY = {
    "version 3": {"hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "sae_lens_version": "3.0.0"},
    "no version": {"hook_point": "blocks.8.hook_resid_pre", "normalize_activations": False},
    "version 4": {"architecture": "standard", "hook_name": "blocks.8.hook_resid_pre", "activation_fn_str": "relu"},
    "version 5": {
        "architecture": "jumprelu",
        "hook_name": "blocks.8.hook_resid_pre",
        "finetuning_scaling_factor": False,
    },
    "version 5, topk": {
        "architecture": "standard",
        "hook_name": "blocks.8.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 6},
    },
}


@pytest.mark.parametrize("name", sorted(LEGACY))
def test_configurations_of_before_version_6(name: str, same: Same, scrambled: Scramble, tmp_path: Path) -> None:
    told = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", "apply_b_dec_to_input": False}
    cls, config = (
        (JumpReLUSAE, JumpReLUSAEConfig) if "jumprelu" in str(LEGACY[name]) else (StandardSAE, StandardSAEConfig)
    )
    written = _inference(cls, config)
    scrambled(written, 6)
    written.save_model(tmp_path / "sae")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps({**told, **LEGACY[name]}))
    theirs = SAE.load_from_disk(tmp_path / "sae")
    ours = load(tmp_path / "sae")
    assert ours.hook_name == "blocks.8.hook_resid_pre"
    same(ours, theirs.encode, theirs.decode, D_IN)


def test_what_no_kind_of_ours_computes_is_refused_by_name(tmp_path: Path) -> None:
    refused: dict[str, Any] = {
        "abstopk": _inference(sae_lens.AbsTopKSAE, sae_lens.AbsTopKSAEConfig, k=3),
        "residual": _inference(sae_lens.MatchingPursuitSAE, sae_lens.MatchingPursuitSAEConfig),
        "covariance_whitening": _inference(
            StandardSAE, StandardSAEConfig, normalize_activations="covariance_whitening"
        ),
        "norm_scaling_factor": _inference(
            StandardSAE, StandardSAEConfig, normalize_activations="expected_average_only_in"
        ),
    }
    for says, theirs in refused.items():
        theirs.save_model(tmp_path / says)
        with pytest.raises(InputError, match=says):
            load(tmp_path / says)


def test_the_factor_of_the_rows_is_folded_as_saelens_folds_it(same: Same, scrambled: Scramble, tmp_path: Path) -> None:
    theirs = _inference(StandardSAE, StandardSAEConfig, normalize_activations="expected_average_only_in")
    scrambled(theirs, 7)
    theirs.save_model(tmp_path / "sae")
    path = tmp_path / "sae" / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "norm_scaling_factor": 0.25}))
    ours = load(tmp_path / "sae")
    theirs.fold_activation_norm_scaling_factor(0.25)
    same(ours, theirs.encode, theirs.decode, D_IN)
