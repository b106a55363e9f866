"""One `load` for every place, and exports that are whole or not there."""

from pathlib import Path

import pytest
import torch

import unweave as uw
from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import Dictionary, dictionary_identity
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, centred_bias, formats, json_object, peek_json
from unweave.formats.places import keep, recognise
from unweave.store.artifact import writing
from unweave.store.files import save_tensors


@pytest.fixture
def dictionary() -> Dictionary:
    made = TopK(d_sae=5, k=2).build(3)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    made.hook_name = "fc1"
    return made.to_inference()


@pytest.mark.parametrize("written_in", ["unweave", "saelens"])
def test_out_and_in_again(dictionary: Dictionary, written_in: str, tmp_path: Path) -> None:
    folder = uw.export(dictionary, tmp_path / "deep" / "out", format=written_in)
    for found in (uw.load(folder), uw.load(str(folder), format=written_in)):
        assert found.hook_name == "fc1"
        assert torch.equal(found.encode(torch.ones(1, 3)), dictionary.encode(torch.ones(1, 3)))


def test_an_export_touches_nothing_that_stands_there(dictionary: Dictionary, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    uw.export(dictionary, tmp_path / "out")  # an empty folder is a place
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="exists already"):
        uw.export(dictionary, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        uw.export(dictionary, tmp_path / "file")
    with pytest.raises(InputError, match="no format 'saelenz': did you mean 'saelens'"):
        uw.export(dictionary, tmp_path / "new", format="saelenz")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "file"} == before


def test_places_that_hold_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        uw.load(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no dictionary that is recognised"):
        uw.load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match="no dictionary that is recognised"):
        uw.load(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no format 'saelen'"):
        uw.load(tmp_path, format="saelen")


def test_two_formats_that_know_a_place_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything(Format):
        kind = "anything"

        def recognises(self, place: Path) -> bool:
            return True

        def read(self, place: Path) -> Dictionary:
            return ReLU(d_sae=2).build(1).to_inference()

    formats()  # all are found before another one comes
    monkeypatch.setitem(Format.registry._members, "anything", Anything)
    assert uw.load(tmp_path).d_sae == 2
    monkeypatch.setitem(Format.registry._members, "zzz", type("Other", (Anything,), {"kind": "zzz"}))
    with pytest.raises(InputError, match="anything or zzz; choose with --format"):
        uw.load(tmp_path)
    assert uw.load(tmp_path, format="zzz").d_sae == 2
    with pytest.raises(InputError, match="does not write"):
        uw.export(ReLU(d_sae=2).build(1), tmp_path / "out", format="anything")


def test_no_format_raises_on_garbage(tmp_path: Path) -> None:
    garbage = [b"", b"\x00" * 64, b"{", b"[]", b"null", b'{"d_in": {}}', b"\xff" * 300]
    names = [
        "cfg.json",
        "config.json",
        "sae.safetensors",
        "sae_weights.safetensors",
        "ae.pt",
        "weights.pt",
        "manifest.json",
    ]
    for content in garbage:
        for name in names:
            (tmp_path / name).write_bytes(content)
        for one in formats().values():
            assert one.recognises(tmp_path) in (True, False)
            for name in names:
                assert one.recognises(tmp_path / name) in (True, False)
    with pytest.raises(StoreError):
        recognise(tmp_path / "missing")


def test_a_native_folder_is_kept_as_it_is_and_another_one_is_made_ours(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.history = {"step": [1.0]}
    dictionary.save(tmp_path / "own")
    keep(tmp_path / "own", tmp_path / "copy")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == files
    keep(tmp_path / "own", tmp_path / "copy")  # it is there already
    keep(uw.export(dictionary, tmp_path / "foreign"), tmp_path / "made")
    assert uw.load(tmp_path / "made").hook_name == "fc1"
    with pytest.raises(InputError, match="another artifact"):
        keep(tmp_path / "foreign", tmp_path / "copy")
    (tmp_path / "own" / "cfg.json").write_text("{}")
    with pytest.raises(StoreError, match=r"cfg\.json"):
        keep(tmp_path / "own", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_damaged_manifest_does_not_make_it_another_library_s(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "own")
    path = tmp_path / "own" / "manifest.json"
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "", "{}", "[]"):
        path.write_text(damaged)
        with pytest.raises(StoreError, match=r"manifest\.json"):
            uw.load(tmp_path / "own")
    path.write_text('{"name": "of something else"}')
    assert uw.load(tmp_path / "own").origin["format"] == "saelens"


def test_a_manifest_cannot_name_files_elsewhere(dictionary: Dictionary, tmp_path: Path) -> None:
    with writing(tmp_path / "own", dictionary_identity(dictionary.config, 3, {"weights": "1"})) as draft:
        dictionary.write(draft)
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "x").write_text("x")
    path = tmp_path / "own" / "manifest.json"
    path.write_text(path.read_text().replace('"deep/x"', '"deep/../deep/x"'))
    with pytest.raises(StoreError, match=r"manifest\.json"):
        keep(tmp_path / "own", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_weights_say_what_does_not_fit(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2, 3), "b": torch.zeros(0, 2), "c": torch.ones(2).half()})
    weights = Weights.of(tmp_path / "w.safetensors")
    assert weights.matrix("a") == (2, 3)
    assert weights.take("c", 2).dtype == torch.float32
    for wrong, says in (
        (lambda: weights.take("a", 3, 2), r"shape \(2, 3\) where \(3, 2\)"),
        (lambda: weights.matrix("b"), "should be a matrix"),
        (lambda: weights.matrix("c"), "should be a matrix"),
        (lambda: weights.take("d", 1), "no tensor 'd'; it holds a, b, c"),
        (weights.expect_all_taken, "also holds a, b"),
    ):
        with pytest.raises(StoreError, match=says):
            wrong()
    weights.ignore("a", "b")
    weights.expect_all_taken()


def test_json_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cfg.json"
    assert peek_json(path) == {}
    for text in ("[1]", "{", "[" * 100_000):
        path.write_text(text)
        assert peek_json(path) == {}
        with pytest.raises(StoreError, match=r"cfg\.json"):
            json_object(path)


def test_the_bias_for_centred_rows() -> None:
    bias = centred_bias(torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([[10.0, 100.0]]))
    assert bias.tolist() == [31.0, 302.0]
