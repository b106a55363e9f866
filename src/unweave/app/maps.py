"""Maps of latents: read where they are there, computed in another process where they are not."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from unweave.analyze.maps import METHODS, latent_map, load_map
from unweave.app.latents import Colouring, colour_values
from unweave.app.opened import OpenAtlas
from unweave.app.schema import MapPoints
from unweave.core.errors import InputError, did_you_mean
from unweave.store.artifact import MANIFEST, read_manifest


def map_folder(opened: OpenAtlas, method: str) -> Path:
    """Where a map of this atlas's latents is kept: beside the atlas."""
    folder = opened.atlas.folder
    return folder.with_name(f"{folder.name.replace('atlas', 'map', 1)},{method}")


class Maps:
    """Computes maps that are missing, each once, in processes of their own: pages stay quick meanwhile."""

    def __init__(self) -> None:
        self._work: dict[Path, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()

    def start(self, opened: OpenAtlas, method: str) -> None:
        """Begin to compute a map that is neither there nor being computed.

        Raises:
            InputError: there is no such method.
        """
        if method not in METHODS:
            raise InputError(f"there is no map {method!r}: {did_you_mean(method, METHODS)}")
        folder = map_folder(opened, method)
        with self._lock:
            if method == "pca" or (folder / MANIFEST).is_file() or folder in self._work:
                return
            command = [sys.executable, "-m", "unweave.cli.main", "map", str(opened.dictionary_folder)]
            command += ["--method", method, "--atlas", str(opened.atlas.folder), "--out", str(folder)]
            self._work[folder] = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )

    def ready(self, opened: OpenAtlas, method: str) -> str:
        """The method whose map can be shown now: this one, or `pca` until it is there."""
        return method if method == "pca" or (map_folder(opened, method) / MANIFEST).is_file() else "pca"

    def failure(self, opened: OpenAtlas, method: str) -> str:
        """Why a map could not be computed; "" where it could, or still is."""
        work = self._work.get(map_folder(opened, method))
        if work is None or work.poll() in (None, 0):
            return ""
        if not hasattr(work, "said"):
            work.said = (work.stderr.read() if work.stderr else "").strip().removeprefix("error: ")  # type: ignore[attr-defined]
        return f"{method} could not be computed: {work.said}"  # type: ignore[attr-defined]


def said_of_map(opened: OpenAtlas, method: str) -> str:
    """How much of the neighbourhoods a map shows, beside chance; "" where that was not measured."""
    folder = map_folder(opened, method)
    if method == "pca" or not (folder / MANIFEST).is_file():
        return ""
    metrics = read_manifest(folder).details.get("metrics", {})
    kept, chance = metrics.get("map/neighbours_kept"), metrics.get("map/neighbours_kept@chance")
    if kept is None or chance is None:
        return ""
    return f"It keeps {100 * kept:.0f} % of each latent's 10 nearest by cosine (chance: {100 * chance:.1f} %)."


def map_points(opened: OpenAtlas, method: str, colouring: Colouring) -> MapPoints:
    """Where latents that fire lie, and the number behind their colour.

    Raises:
        InputError: the atlas cannot be coloured so, or its dictionary is not in the run.
    """
    value = colour_values(opened, colouring)
    folder = map_folder(opened, method)
    if method == "pca":
        places = opened.once("pca", lambda: latent_map(opened.directions, "pca"))
    else:
        places = opened.once(("map", folder), lambda: load_map(folder))
    kept = np.flatnonzero((opened.columns["count"] > 0) & np.isfinite(places).all(1))
    return MapPoints(
        method=method,
        colouring=colouring,
        latent=kept.tolist(),
        x=np.round(places[kept, 0], 4).astype(float).tolist(),
        y=np.round(places[kept, 1], 4).astype(float).tolist(),
        value=[float(v) for v in value[kept]],
    )
