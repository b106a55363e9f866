"""What a dictionary's own folder holds: SAELens' two files wherever SAELens has words, and all of the state."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import OWN, WEIGHTS, Dictionary, DictionaryConfig, dictionary_identity
from unweave.dictionaries.exchange import CFG
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.stored import load
from unweave.formats.base import Format, formats
from unweave.store.artifact import writing
from unweave.store.files import load_tensors, save_tensors
from unweave.testing import example

KINDS = DictionaryConfig.registry.members()
D_IN = 6
FOUR = {"W_enc", "b_enc", "W_dec", "b_dec"}
EXPECTED = {
    "archetypal": ("topk", FOUR, {"mix", "shift", "points"}),
    "batch-topk": ("jumprelu", FOUR | {"threshold"}, {"threshold"}),
    "gated": ("gated", FOUR - {"b_enc"} | {"b_gate", "r_mag", "b_mag"}, {"b_enc", "b_mag"}),
    "gelu": ("unweave-gelu", FOUR | {"bend"}, set()),
    "ica": ("topk", FOUR, set()),
    "jumprelu": ("jumprelu", FOUR | {"threshold"}, set()),
    "kmeans": ("unweave-kmeans", {"W_dec", "b_dec", "scale"}, set()),
    "matching-pursuit": ("matching_pursuit", {"W_dec", "b_dec"}, set()),
    "matryoshka": ("jumprelu", FOUR | {"threshold"}, {"threshold"}),
    "neurons": ("topk", FOUR, {"V", "mean", "gain"}),
    "nmf": ("unweave-nmf", {"W_dec"}, set()),
    "pca": ("topk", FOUR, {"V", "mean", "gain"}),
    "random": ("topk", FOUR, {"V", "mean", "gain"}),
    "relu": ("standard", FOUR, set()),
    "relu-faces": ("standard", FOUR, set()),
    "relu-kl": ("standard", FOUR, set()),
    "relu-notebook": ("standard", FOUR, {"b_enc", "b_dec", "encoder_bias", "decoder_bias"}),
    "semi-nmf": ("unweave-semi-nmf", {"W_dec"}, set()),
    "topk": ("topk", FOUR, set()),
}


def filled(kind: str) -> Dictionary:
    """A dictionary no number of which is zero or like another by chance."""
    dictionary = example(KINDS[kind]).build(D_IN)
    generator = torch.Generator().manual_seed(1)
    for name, value in dictionary.state_dict().items():
        value.copy_(
            torch.rand(value.shape, generator=generator) + 0.1 if name == "threshold" else _noise(value, generator)
        )
    return dictionary.to_inference()


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_folder_is_saelens_own_and_holds_the_state_to_the_bit(kind: str, tmp_path: Path) -> None:
    architecture, published, own = EXPECTED.get(kind, (f"unweave-{kind}", set(filled(kind).state_dict()), set()))
    dictionary = filled(kind)
    dictionary.hook_name = "layer.3"
    dictionary.origin = {"model_name": "tiny", "context_size": 8}
    dictionary.save(tmp_path / "sae")
    cfg = json.loads((tmp_path / "sae" / CFG).read_text())
    assert cfg["architecture"] == architecture
    assert (cfg["d_in"], cfg["d_sae"], cfg["dtype"]) == (D_IN, dictionary.d_sae, "float32")
    assert cfg["apply_b_dec_to_input"] is True
    assert cfg["normalize_activations"] == "none"
    told = {"hook_name": "layer.3", "model_name": "tiny", "context_size": 8, "sae_lens_version": "6.0.0"}
    assert told.items() <= cfg["metadata"].items()
    tensors = load_tensors(tmp_path / "sae" / WEIGHTS)
    assert set(tensors) == published
    beside = set(load_tensors(tmp_path / "sae" / OWN)) if (tmp_path / "sae" / OWN).is_file() else set()
    assert beside == own
    found = load(tmp_path / "sae")
    assert (found.hook_name, found.origin, found.config) == ("layer.3", dictionary.origin, dictionary.config)
    for name, value in dictionary.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_artifact_from_before_there_was_a_cfg_json_still_loads(kind: str, tmp_path: Path) -> None:
    dictionary = filled(kind)
    with writing(tmp_path / "sae", dictionary_identity(dictionary.config, D_IN, {"weights": "1"})) as draft:
        save_tensors(draft.folder / WEIGHTS, dictionary.state_dict())
        draft.details.update(d_in=D_IN, d_sae=dictionary.d_sae, hook_name="fc2")
    found = load(tmp_path / "sae")
    assert (found.hook_name, found.origin) == ("fc2", {})
    for name, value in dictionary.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_the_magnitude_of_gated_takes_the_gate_s_bias_up() -> None:
    dictionary = Gated(d_sae=1).build(1)
    values = {"W_enc": [[2.0]], "b_enc": [3.0], "W_dec": [[1.0]], "b_dec": [0.0], "r_mag": [0.0], "b_mag": [5.0]}
    dictionary.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    tensors = dictionary.saelens().tensors
    assert {name: float(tensors[name]) for name in ("b_gate", "b_mag")} == {"b_gate": 3.0, "b_mag": 8.0}
    assert float(dictionary.to_inference().encode(torch.tensor([[1.0]]))) == 1.0 * (2 * 1 + 3) + 5  # as theirs: 2·1 + 8


def test_a_threshold_below_zero_has_no_word_in_saelens_and_is_kept_all_the_same(tmp_path: Path) -> None:
    dictionary = JumpReLU(d_sae=3, target=1.0).build(2)
    dictionary.get_parameter("threshold").data.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    assert dictionary.saelens() is None
    dictionary.save(tmp_path / "sae")
    assert json.loads((tmp_path / "sae" / CFG).read_text())["architecture"] == "unweave-jumprelu"
    assert load(tmp_path / "sae").get_parameter("threshold").tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", [CFG, OWN, WEIGHTS])
def test_damage_to_each_file_is_one_error_that_names_it(name: str, tmp_path: Path) -> None:
    filled("gated").save(tmp_path / "sae")
    path = tmp_path / "sae" / name
    whole = path.read_bytes()
    for damaged in (whole[:-2], whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=name):
            load(tmp_path / "sae")
    path.unlink()
    with pytest.raises(StoreError, match=name):
        load(tmp_path / "sae")


def test_the_gain_of_a_control_is_in_its_decoder(tmp_path: Path) -> None:
    dictionary = Neurons().build(2)
    dictionary.V.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    dictionary.gain.fill_(0.5)
    dictionary.mean.copy_(torch.tensor([1.0, 2.0]))
    exchange = dictionary.saelens()
    assert (exchange.architecture, dict(exchange.options)) == ("standard", {})
    assert exchange.tensors["W_dec"].tolist() == [[0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]]
    assert exchange.tensors["b_dec"].tolist() == [1.0, 2.0]


def test_saving_elsewhere_than_in_a_folder_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / CFG).write_text("{}")
    with pytest.raises(InputError, match="no Unweave artifact"):
        filled("relu").save(tmp_path / "sae")


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table of docs/how-to/formats.md whose first heading is so called."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "formats.md").read_text(encoding="utf-8")
    table = page.partition(f"| {heading} | ")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


def test_the_page_says_what_each_kind_is_in_saelens() -> None:
    said = {row[0]: row[1] or f"unweave-{row[0]}" for row in _rows("kind")}
    assert said == {kind: EXPECTED[kind][0] for kind in KINDS}


def test_the_page_says_of_each_format_whether_it_is_written() -> None:
    said = {row[0]: row[3] != "no" for row in _rows("name")}
    known = {name: type(one).write is not Format.write for name, one in formats().items()}
    assert said == {**known, "unweave": True}
