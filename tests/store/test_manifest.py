import json
import random
from pathlib import Path
from typing import Any

import pytest

from unweave.core.errors import StoreError
from unweave.store.artifact import MANIFEST, SCHEMA, Identity, read_json, read_manifest, write_json, writing

IDENTITY = Identity(kind="thing", config={"width": 12, "rate": 1e-3, "name": "ümlaut"}, inputs={"rows": "abc"}, seed=7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path / "a", IDENTITY) as draft:
        (draft.folder / "data.bin").write_bytes(bytes(range(256)))
        draft.details["n"] = 3
    return tmp_path / "a"


def _edit(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match=r"no Unweave artifact: it has no manifest\.json"):
            read_manifest(folder)


def test_a_newer_schema_says_so(folder: Path) -> None:
    _edit(folder, schema=SCHEMA + 1, new_field={"of": "the future"})
    with pytest.raises(StoreError, match="written by a newer Unweave"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}", '{"name": "a web app", "icons": []}', "\x00"])
def test_a_manifest_of_something_else_is_one_error_that_names_it(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(folder)


def test_another_kind_is_refused(folder: Path) -> None:
    assert read_manifest(folder, "thing").kind == "thing"
    with pytest.raises(StoreError, match="kind 'thing', not 'dictionary'"):
        read_manifest(folder, "dictionary")


@pytest.mark.parametrize("missing", ["kind", "id", "schema", "config", "files", "details"])
def test_a_missing_field_is_named(folder: Path, missing: str) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    del data[missing]
    (folder / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(StoreError, match=rf"manifest\.json.*'{missing}'"):
        read_manifest(folder)


@pytest.mark.parametrize("change", [{"config": {"width": 13}}, {"seed": 8}, {"inputs": {}}, {"kind": "other"}])
def test_a_manifest_that_was_edited_no_longer_fits_its_id(folder: Path, change: dict[str, Any]) -> None:
    _edit(folder, **change)
    with pytest.raises(StoreError, match=r"manifest\.json was changed or damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("verify", [False, True])
def test_a_missing_or_shortened_file_is_named(folder: Path, verify: bool) -> None:
    (folder / "data.bin").write_bytes(bytes(range(255)))
    with pytest.raises(StoreError, match=r"data\.bin has 255 bytes where its manifest says 256"):
        read_manifest(folder, verify=verify)
    (folder / "data.bin").unlink()
    with pytest.raises(StoreError, match=r"data\.bin is missing"):
        read_manifest(folder, verify=verify)


def test_every_flipped_bit_of_a_file_is_found(folder: Path) -> None:
    whole = (folder / "data.bin").read_bytes()
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        (folder / "data.bin").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"data\.bin was changed or damaged"):
            read_manifest(folder, verify=True)


def test_a_flipped_bit_of_the_manifest_is_found_or_changes_nothing_that_matters(folder: Path) -> None:
    whole = (folder / MANIFEST).read_bytes()
    before = read_manifest(folder, verify=True)
    refused = []
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << random.Random(at).randrange(8)
        (folder / MANIFEST).write_bytes(damaged)
        try:
            found = read_manifest(folder, verify=True)
        except StoreError as error:
            refused.append(str(error))
            continue
        for name in ("kind", "id", "schema", "config", "inputs", "seed", "files"):
            assert getattr(found, name) == getattr(before, name), (name, at)
    assert len(refused) > len(whole) / 3
    assert all(str(folder) in message for message in refused)


def test_files_that_others_put_beside_do_no_harm(folder: Path) -> None:
    (folder / ".DS_Store").write_text("")
    assert read_manifest(folder, verify=True).id == IDENTITY.id


def test_json_comes_back_and_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5, "ü", None]})
    assert read_json(path) == {"a": [1, 2.5, "ü", None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": [1, 2.5, "ü", None]}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_unreadable_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(StoreError, match=r"x\.json does not exist"):
        read_json(path)
    for content in (b"{", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"x\.json is not readable JSON"):
            read_json(path)
    with pytest.raises(StoreError, match="is no regular file"):
        read_json(tmp_path)
