"""Every file of every kind of artifact is cut short, flipped, lengthened and removed: an error, or nothing wrong."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from faulting import ERROR, RIGHT
from faulting.stages import STAGES, WHOLE

from unweave.analyze import Atlas
from unweave.analyze.maps import load_map
from unweave.compare.comparison import read_comparison
from unweave.core.config import fingerprint
from unweave.core.errors import StoreError
from unweave.core.hashing import hash_module, hash_tensor
from unweave.dictionaries.stored import load
from unweave.models.classifier import load_model
from unweave.recipes.base import read_metrics
from unweave.recipes.sweep_result import Sweep
from unweave.report import build_report
from unweave.steer import Response
from unweave.store import artifact
from unweave.store.activations import Activations
from unweave.store.verify import verify
from unweave.study import Study

if TYPE_CHECKING:
    from conftest import Ground

SEED = 7
FLIPS, CUTS = 4, 2


def _rows(folder: Path) -> str:
    store = Activations(folder)
    moments = store.moments()
    held = [store.rows(0, store.n), store.example, store.position, moments.mean]
    return fingerprint(hash_tensor(*held), moments.variance, store.hook_name, store.class_names)


def _dictionary(folder: Path) -> str:
    found = load(folder)
    return fingerprint(hash_module(found), found.history, found.hook_name)


def _atlas(folder: Path) -> str:
    atlas = Atlas(folder)
    tables = [table.to_pydict() for table in (atlas.latents, atlas.examples, atlas.selective) if table is not None]
    return fingerprint(atlas.metrics, tables, atlas.codes.value.tolist(), atlas.entries.row.tolist())


def _model(folder: Path) -> str:
    found = load_model(folder)
    return fingerprint(hash_module(found.module), repr(found.curves))


def _comparison(folder: Path) -> str:
    return fingerprint(read_comparison(folder).table.to_pydict())


def _response(folder: Path) -> str:
    found = Response(folder)
    return fingerprint(repr(found.table.to_pydict()))


def _study(folder: Path) -> str:
    study = Study(folder)
    grids = [torch.frombuffer(bytearray(study.grid(item)), dtype=torch.uint8) for item in study.plan.items]
    return fingerprint(study.plan, hash_tensor(*grids))


def _run(folder: Path) -> str:
    build_report(folder)
    return fingerprint(read_metrics(folder))


def _sweep(folder: Path) -> str:
    return fingerprint(Sweep.read(folder).table.to_pydict())


def _map(folder: Path) -> str:
    return fingerprint(np.asarray(load_map(folder)).tolist())


READERS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "capture": ("rows", _rows),
    "train": ("sae", _dictionary),
    "fit": ("pca", _dictionary),
    "analyze": ("atlas", _atlas),
    "model": ("model", _model),
    "compare": ("comparison", _comparison),
    "steer": ("response", _response),
    "study": ("study", _study),
    "run": ("run", _run),
    "sweep": ("sweep", _sweep),
    "map": ("map", _map),
}


@pytest.fixture
def whole(ground: "Ground") -> Path:
    """What the stages leave, in `right`, and their inputs."""
    return ground.inputs.parent


Damage = Callable[[Path, random.Random], None]


def flip(path: Path, drawn: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    path.write_bytes(content)


def cut(path: Path, drawn: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: drawn.randrange(path.stat().st_size)])


def lengthen(path: Path, drawn: random.Random) -> None:
    path.write_bytes(path.read_bytes() + drawn.randbytes(8))


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


DAMAGES: list[Damage] = [*[flip] * FLIPS, *[cut] * CUTS, lengthen, remove, empty]
_MADE_AGAIN = {"report.html", "sweep.csv", "sweep.parquet"}


def _judged(folder: Path) -> list[Path]:
    """Files below a folder that stand for something; pages and figures can be made again."""
    inside = [path.parent for path in folder.rglob("manifest.json") if path.parent != folder]  # judged by themselves
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not set(path.parents) & set(inside))
    return [path for path in files if path.name not in _MADE_AGAIN and path.parent != folder / "figures"]


@pytest.mark.parametrize("stage", READERS)
def test_damage_is_an_error_wherever_it_is(
    whole: Path, stage: str, tmp_path: Path, tally: Callable[[str], None]
) -> None:
    name, read = READERS[stage]
    place = tmp_path / name
    shutil.copytree(whole / "right" / stage / name, place)
    right, drawn = read(place), random.Random(f"{SEED} {stage}")
    assert not verify(place).damaged
    for path in _judged(place):
        kept = path.read_bytes()
        for number, damage in enumerate(DAMAGES):
            said = f"{stage}: {damage.__name__} {number} of {path.relative_to(place)}, seed {SEED}"
            damage(path, drawn)
            try:
                found = read(place)
            except StoreError as error:
                found = str(error)
            assert found == right or str(place) in found, f"{said}: read as if nothing were wrong"
            tally(RIGHT if found == right else ERROR)
            path.write_bytes(kept)
    assert read(place) == right


@pytest.mark.parametrize("stage", READERS)
def test_verify_names_every_damaged_file(
    whole: Path, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[[str], None]
) -> None:
    monkeypatch.setattr(artifact, "_VERIFY_WHOLE_BELOW", 0)  # as if every store were too large to be read on opening
    name, _ = READERS[stage]
    place = tmp_path / name
    shutil.copytree(whole / "right" / stage / name, place)
    drawn = random.Random(f"{SEED} {stage}")
    for path in _judged(place):
        kept = path.read_bytes()
        for damage in DAMAGES[FLIPS - 1 :]:
            damage(path, drawn)
            if not path.exists() and path.suffix == ".json":
                path.write_bytes(kept)
                continue  # without its manifest a folder is no artifact
            found = verify(place).damaged
            assert any(str(path) in line for line in found), f"{damage.__name__} of {path}, seed {SEED}: {found}"
            tally(ERROR)
            path.write_bytes(kept)
    assert not verify(place).damaged


@pytest.mark.parametrize("stage", [stage for stage in READERS if stage in WHOLE])
def test_manifests_of_other_versions(whole: Path, stage: str, tmp_path: Path, tally: Callable[[str], None]) -> None:
    name, read = READERS[stage]
    shutil.copytree(whole / "right" / stage / name, tmp_path / name)
    path = tmp_path / name / "manifest.json"
    said = json.loads(path.read_text())
    newer = {**said, "schema": said["schema"] + 1, "checksum": "of another kind", "what is new": [1]}
    unknown = {**said, "what is new": [1]}
    without = {key: value for key, value in said.items() if key != "details"}
    for other, why in ((newer, "newer Unweave"), (unknown, "what is new"), (without, "details"), ([], "Manifest")):
        path.write_text(json.dumps(other))
        with pytest.raises(StoreError, match=f"manifest.json.*{why}"):
            read(tmp_path / name)
        tally(ERROR)


@pytest.mark.parametrize("stage", [stage for stage in READERS if stage in WHOLE])
def test_a_stage_finds_its_damaged_artifact_and_leaves_it(
    whole: Path, stage: str, tmp_path: Path, tally: Callable[[str], None]
) -> None:
    name, _ = READERS[stage]
    shutil.copytree(whole / "right" / stage, tmp_path / "out")
    for path in _judged(tmp_path / "out" / name):
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(StoreError, match=name):
            STAGES[stage](whole / "inputs", tmp_path / "out")
        assert path.read_bytes() == kept[: len(kept) // 2]
        tally(ERROR)
        path.write_bytes(kept)
