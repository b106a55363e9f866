"""Push, pull and `hf://` against a stand-in for the hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import Hub, Repo, connected, serving

import unweave as uw
from unweave.cli import main
from unweave.core.errors import InputError, StoreError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.topk import TopK
from unweave.formats.hub import HubPlace


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as found, connected(found, str(tmp_path / "cache"), monkeypatch):
        yield found


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    made = Gated(d_sae=6).build(3)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    made.hook_name, made.origin = "fc1", {"model_name": "org/net"}
    made.history = {"step": [1.0, 2.0], "loss": [3.0, 2.0]}
    made.save(tmp_path / "sae")
    return tmp_path / "sae"


def same(found: Dictionary, folder: Path) -> bool:
    wanted = uw.load(folder).state_dict()
    return all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


def test_there_and_back(hub: Hub, sae: Path, tmp_path: Path) -> None:
    address = uw.push(sae, "me/dictionary", private=True, message="First")
    assert address.startswith(f"{hub.endpoint}/me/dictionary/commit/")
    repo = hub.repos["me/dictionary"]
    assert repo.private
    assert repo.messages == ["First"]
    assert {"README.md", "sae/cfg.json", "sae/sae_weights.safetensors", "sae/manifest.json"} <= set(
        repo.branches["main"]
    )
    for place in ("hf://me/dictionary/sae", "hf://me/dictionary", "hf://me/dictionary@main/sae"):
        assert same(uw.load(place), sae)
    assert uw.pull("me/dictionary", tmp_path / "got") == {"sae": tmp_path / "got"}
    files = {path.name: path.read_bytes() for path in sae.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == files
    uw.pull("hf://me/dictionary/sae", tmp_path / "got")  # nothing more to do


def test_only_the_data_of_one_folder_are_fetched(hub: Hub, sae: Path) -> None:
    uw.push(sae, "me/dictionary")
    uw.push(sae.rename(sae.with_name("other")), "me/dictionary")
    files = hub.repos["me/dictionary"].branches["main"]
    files.update({"sae/run.py": b"import os", "sae/deep/x.safetensors": b"", "README.md": b"x"})
    hub.asked.clear()
    uw.load("hf://me/dictionary/sae")
    fetched = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert fetched == {path.name for path in sae.with_name("other").iterdir()}
    with pytest.raises(StoreError, match="choose one of its folders: other, sae"):
        uw.load("hf://me/dictionary")
    with pytest.raises(StoreError, match="no weights"):
        uw.load("hf://me/dictionary/nothing")


def test_a_branch_and_a_foreign_folder(hub: Hub, sae: Path, tmp_path: Path) -> None:
    uw.push(sae, "me/dictionary", revision="trial")
    assert hub.repos["me/dictionary"].branches["main"] == {}
    assert same(uw.load("hf://me/dictionary@trial/sae"), sae)
    with pytest.raises(InputError, match="no such revision"):
        uw.load("hf://me/dictionary@nope/sae")
    exported = uw.export(uw.load(sae), tmp_path / "theirs")
    files = {f"layer/{path.name}": path.read_bytes() for path in exported.iterdir()}
    hub.repos["them/saes"] = Repo({"main": {**files, "README.md": b""}})
    assert uw.load("hf://them/saes/layer/sae_weights.safetensors").hook_name == "fc1"
    assert uw.pull("them/saes", tmp_path / "made") == {"them/saes": tmp_path / "made"}
    assert uw.load(tmp_path / "made").origin["format"] == "saelens"


def test_several_dictionaries_of_a_repository(hub: Hub, sae: Path, tmp_path: Path) -> None:
    uw.push(sae, "me/two")
    other = tmp_path / "topk"
    TopK(d_sae=4, k=2).build(3).save(other)
    uw.push(other, "me/two")
    assert uw.pull("me/two", tmp_path / "all") == {"sae": tmp_path / "all/sae", "topk": tmp_path / "all/topk"}
    assert same(uw.load(tmp_path / "all" / "sae"), sae)


def test_what_can_go_wrong_is_one_error_that_says_what_to_do(
    hub: Hub, sae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("hf://me/nothing", "hf://me/nothing/sae"):
        with pytest.raises(InputError, match="does not exist, or is private"):
            uw.load(place)
    for place in ("hf://me", "hf://", "hf://me/", "hf://me/x@/y", "hf://me/x/../y"):
        with pytest.raises(InputError, match="no place on the hub"):
            uw.load(place)
    with pytest.raises(InputError, match="no name of a repository"):
        uw.load("hf://me/what is this")
    with pytest.raises(InputError, match="ORG/NAME"):
        uw.push(sae, "me/dictionary/sub")
    with pytest.raises(InputError, match="neither a dictionary"):
        uw.push(tmp_path, "me/dictionary")
    assert hub.repos == {}
    uw.push(sae, "me/dictionary", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="HF_TOKEN"):
        uw.push(sae, "me/dictionary")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="HF_TOKEN"):
        uw.push(sae, "me/dictionary")
    with pytest.raises(InputError, match="HF_TOKEN"):
        uw.load("hf://me/dictionary/sae")


def test_no_connection_and_a_hub_that_is_switched_off(
    hub: Hub, sae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(InputError, match="cannot be reached"):
        uw.load("hf://me/dictionary/sae")
    with pytest.raises(InputError, match="cannot be reached"):
        uw.push(sae, "me/dictionary")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        uw.load("hf://me/dictionary/sae")


def test_without_the_package_the_install_is_named(sae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'unweave\[hub\]'"):
        uw.load("hf://me/dictionary")


def test_a_file_that_is_damaged_on_the_way_is_found(hub: Hub, sae: Path, tmp_path: Path) -> None:
    uw.push(sae, "me/dictionary")
    files = hub.repos["me/dictionary"].branches["main"]
    files["sae/sae_weights.safetensors"] = files["sae/sae_weights.safetensors"][:-1] + b"\x00"
    with pytest.raises(StoreError, match="sae_weights"):
        uw.pull("me/dictionary", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_from_the_command_line(hub: Hub, sae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["push", str(sae), "me/dictionary", "--license", "mit"]) == 0
    assert main.main(["pull", "me/dictionary", "--out", str(tmp_path / "got")]) == 0
    assert main.main(["import", "hf://me/dictionary/sae", "--out", str(tmp_path / "again"), "--hook", "fc2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Pushed: ")
    assert out[1] == f"gated, d_in 3, d_sae 6, hook fc1: {tmp_path / 'got'}"
    assert out[2] == f"gated, d_in 3, d_sae 6, hook fc2: {tmp_path / 'again'}"
    assert b'license: "mit"' in hub.repos["me/dictionary"].branches["main"]["README.md"]


def test_places_are_read_as_they_are_written() -> None:
    for text, place in {
        "hf://a/b": HubPlace("a/b"),
        "hf://a/b/": HubPlace("a/b"),
        "a/b@v1/c/d@e": HubPlace("a/b", "c/d@e", "v1"),
        "hf://a/b/sae@pca": HubPlace("a/b", "sae@pca"),
    }.items():
        assert HubPlace.parse(text) == place
    assert str(HubPlace("a/b", "c", "v1")) == "hf://a/b@v1/c"
