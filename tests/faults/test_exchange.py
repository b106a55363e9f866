"""Dictionaries on their way out and in: processes that are killed, and disks that are full, in the middle of it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulting import ERROR, RIGHT
from faulting.faults import DiskFull, Fault, Moments, killed
from faulting.trials import left
from hub_stand_in import Hub, Repo, connected, serving

from unweave.dictionaries.stored import load
from unweave.formats import export, pull

if TYPE_CHECKING:
    from conftest import Ground

Tally = Callable[[str], None]
FORMATS = ("saelens", "sparsify", "dictionary-learning")
PLACE = "hf://someone/dictionary"


def exported(written_in: str, inputs: Path, out: Path, at: int | None, fault: Fault) -> int:
    """Write a dictionary for another library, with a fault at the n-th change; how many changes there were."""
    moments = Moments(out, at, fault)
    moments.install()
    export(load(inputs / "sae"), out / "exported", format=written_in)
    return moments.seen


@pytest.mark.parametrize("written_in", FORMATS)
def test_an_export(ground: "Ground", written_in: str, tmp_path: Path, tally: Tally) -> None:
    """It is there whole or not at all; the next one removes what a killed one left."""
    done = ground.nursery.run(exported, written_in, ground.inputs, tmp_path / "right", None, killed)
    assert done.how == "right", done
    last = done.value - 2  # the rename; after it a draft's name is looked for once more
    for fault, moment in ((killed, 1), (killed, last), (DiskFull(None), 1), (DiskFull(700), 2)):
        place, said = (
            tmp_path / f"{moment} {fault is killed}",
            f"{written_in}, {fault}, moment {moment} of {done.value}",
        )
        ended = ground.nursery.run(exported, written_in, ground.inputs, place, moment, fault)
        assert ended.how == ("killed" if fault is killed else "error"), f"{said}: {ended.how} {ended.text}"
        assert not (place / "exported").exists(), said
        if ended.how == "error":
            assert "start again" in ended.text, f"{said}: {ended.text}"
            assert str(place) in ended.text, f"{said}: {ended.text}"
            assert left(place) == {}, said
        again = ground.nursery.run(exported, written_in, ground.inputs, place, None, killed)
        assert again.how == "right", f"{said}: {again.text}"
        assert left(place) == left(tmp_path / "right"), said
        tally(ERROR if ended.how == "error" else RIGHT)


def test_an_export_over_what_stands_there(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "thesis.tex").write_text("years of work")
    ended = ground.nursery.run(exported, "saelens", ground.inputs, tmp_path, None, killed)
    assert ended.how == "error"
    assert "choose another folder" in ended.text
    assert list(left(tmp_path)) == ["exported/thesis.tex"]
    tally(ERROR)


def pulled(hub: str, out: Path, at: int | None, fault: Fault) -> int:
    """Fetch a dictionary from the stand-in for the hub, with a fault at the n-th change of cache or folder."""
    there = Hub()
    there.endpoint = hub
    with pytest.MonkeyPatch.context() as patch, connected(there, str(out / "cache"), patch):
        moments = Moments(out, at, fault)
        moments.install()
        pull(PLACE, out / "sae")
    return moments.seen


def test_a_pull(ground: "Ground", tmp_path: Path, tally: Tally) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    files = {f"sae/{path.name}": path.read_bytes() for path in (ground.inputs / "sae").iterdir()}
    with serving() as hub:
        hub.repos["someone/dictionary"] = Repo(branches={"main": files})
        done = ground.nursery.run(pulled, hub.endpoint, tmp_path / "right", None, killed)
        assert done.how == "right", done
        right = left(tmp_path / "right" / "sae")
        assert right == left(ground.inputs / "sae")
        for fault, moment in (
            (killed, done.value // 3),
            (killed, 2 * done.value // 3),
            (killed, done.value - 2),
            (DiskFull(None), done.value // 4),
            (DiskFull(700), done.value // 2),
        ):
            place, said = tmp_path / f"{moment} {fault is killed}", f"{fault}, moment {moment} of {done.value}"
            ended = ground.nursery.run(pulled, hub.endpoint, place, moment, fault)
            assert ended.how == ("killed" if fault is killed else "error"), f"{said}: {ended.how} {ended.text}"
            assert not (place / "sae").exists(), said
            if ended.how == "error":
                assert "start again" in ended.text, f"{said}: {ended.text}"
                assert str(place) in ended.text, f"{said}: {ended.text}"
            again = ground.nursery.run(pulled, hub.endpoint, place, None, killed)
            assert again.how == "right", f"{said}: {again.text}"
            assert left(place / "sae") == right, said
            assert not [path for path in place.iterdir() if path.name not in ("cache", "sae")], said
            tally(ERROR if ended.how == "error" else RIGHT)
