"""What a report is made of: the artifacts of a run by role, or single artifacts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unweave.analyze.atlas import KIND as ATLAS
from unweave.analyze.atlas import Atlas
from unweave.core.errors import StoreError
from unweave.dictionaries.base import HISTORY
from unweave.dictionaries.base import KIND as DICTIONARY
from unweave.models.classifier import KIND as MODEL
from unweave.models.classifier import load_curves
from unweave.recipes.base import RUN, read_metrics
from unweave.store.artifact import Manifest, parse_manifest, read_json, read_manifest
from unweave.store.files import load_table

MAIN = "dictionary"
_ROLES = {ATLAS: "atlas", DICTIONARY: "sae", MODEL: "model"}


@dataclass(frozen=True, eq=False)
class Contents:
    """A folder that a report can be made of.

    Attributes:
        folder: where the report goes.
        run: what `run.json` says; empty for a single artifact.
        metrics: flat mapping from `name` or `name@condition` to number.
        artifacts: folder of each artifact by role.
    """

    folder: Path
    run: Mapping[str, Any]
    metrics: Mapping[str, float]
    artifacts: Mapping[str, Path]

    @staticmethod
    def read(folder: Path) -> "Contents":
        """Read a run folder, or the folder of one dictionary, atlas or model.

        Raises:
            StoreError: it is neither, or the run is not complete.
        """
        if (folder / RUN).is_file():
            run = read_json(folder / RUN)
            if not isinstance(run, dict) or "status" not in run:
                raise StoreError(f"{folder / RUN} does not say what was run; start the run again in another folder")
            if run["status"] != "complete":
                raise StoreError(f"{folder} holds a run that has not ended; start the same command again to finish it")
            artifacts = {role: folder / path for role, path in run["artifacts"].items()}
            return Contents(folder, run, read_metrics(folder), artifacts)
        manifest = read_manifest(folder)
        if manifest.kind not in _ROLES:
            raise StoreError(f"there is no report on an artifact of kind {manifest.kind!r} ({folder})")
        metrics = manifest.details.get("metrics", {})
        return Contents(folder, {}, metrics, {_ROLES[manifest.kind]: folder})

    @cached_property
    def atlases(self) -> dict[str, Atlas]:
        """The atlas of the dictionary and of each control, by condition, the dictionary first."""
        return {
            role.partition("@")[2] or MAIN: Atlas(path)
            for role, path in self.artifacts.items()
            if role.partition("@")[0] == "atlas"
        }

    @cached_property
    def curves(self) -> dict[str, list[float]] | None:
        """How the training of the run's model went."""
        return load_curves(self.artifacts["model"]) if "model" in self.artifacts else None

    @cached_property
    def history(self) -> dict[str, list[float]] | None:
        """What the dictionary's training logged."""
        path = self.artifacts.get("sae")
        if path is None or not (path / HISTORY).is_file():
            return None
        columns: dict[str, list[float]] = load_table(path / HISTORY).to_pydict()
        return columns

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifest of each artifact by role, its files as they were written.

        Raises:
            StoreError: an artifact is missing or damaged.
        """
        return {role: _whole(path) for role, path in self.artifacts.items()}

    def conditions(self) -> list[str]:
        """The dictionary and what stands beside it in the metrics, in the order they were recorded."""
        return [MAIN, *dict.fromkeys(name.partition("@")[2] for name in self.metrics if "@" in name)]

    def metric(self, name: str, condition: str) -> float | None:
        """A number, or None where it was not measured."""
        return self.metrics.get(name if condition == MAIN else f"{name}@{condition}")


def _whole(folder: Path) -> Manifest:
    """An artifact's manifest, its files compared; a large store of activations by size, as wherever one is opened."""
    return read_manifest(folder, verify=True, large=parse_manifest(folder).kind == DICTIONARY)
