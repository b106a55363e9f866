"""One trial: a stage with a fault in its way, then again without one; what is left has to be what it always is."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faulting.faults import Fault, Moments
from faulting.stages import SLOW, STAGES
from unweave.store.drafts import UNFINISHED, is_draft, is_unfinished
from unweave.store.pieces import read_notes

_TIMES = {"created", "wall_seconds", "train_seconds", "checksum", "versions", "hardware", "seconds"}
_SECONDS = re.compile(r"\b\d+(\.\d+)? s\b")


def do(stage: str, inputs: Path, out: Path, at: int | None, fault: Fault) -> int:
    """Do a stage, with a fault at the n-th change of a file; returns how many changes there were."""
    moments = Moments(out, at, fault)
    moments.install()
    work(stage)(inputs, out)
    return moments.seen


def work(stage: str) -> Callable[[Path, Path], None]:
    """A stage by name."""
    return {**STAGES, **SLOW}[stage]


def left(folder: Path) -> dict[str, str]:
    """Fingerprint of every file below a folder, without the times that stand in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_timeless(path)).hexdigest()[:12]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half_written(folder: Path) -> list[Path]:
    """What a failed stage has left below a folder that nobody can go on with."""
    drafts = [path for path in folder.rglob("*") if is_draft(path)]
    found = [draft for draft in drafts if not is_unfinished(draft)]
    for draft in set(drafts).difference(found):
        notes = draft / UNFINISHED
        whole = {draft / piece.name for piece in read_notes(notes)}
        found += [path for path in draft.rglob("*") if path.is_file() and path.parent != notes and path not in whole]
    return found


def _timeless(path: Path) -> bytes:
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(path.read_text()))).encode()
    if path.suffix == ".html":
        return _SECONDS.sub("", path.read_text()).encode()
    return b"" if ".sqlite" in path.name else path.read_bytes()


def _without_times(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _without_times(value) for name, value in data.items() if name not in _TIMES}
    return [_without_times(value) for value in data] if isinstance(data, list) else data
