"""Maps of a dictionary: latents as points in the plane, near each other where their directions are."""

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from unweave.analyze.atlas import Atlas
from unweave.core.errors import InputError, StoreError, did_you_mean
from unweave.core.hashing import hash_module
from unweave.core.optional import needs
from unweave.core.progress import Bar, progress
from unweave.core.seeds import derive_seed, numpy_generator
from unweave.dictionaries.base import Dictionary
from unweave.metrics.neighbours import neighbours_kept
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.files import load_tensors, save_tensors

KIND = "latent-map"
METHODS = ("tsne", "umap", "pca")
_TENSORS = "map.safetensors"
_PERPLEXITY = 30.0
_NEIGHBOURS = 15
_ITERATIONS = 1000
_NEAR = 10
_ASKED = 1024


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """How a map is made."""

    method: str = "tsne"
    "tsne, umap or pca"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"there is no map {self.method!r}: {did_you_mean(self.method, METHODS)}")


@torch.no_grad()
def latent_map(
    directions: Float[Tensor, "n d"],
    method: str = "tsne",
    *,
    seed: int = 0,
    shown: Bool[np.ndarray, " n"] | None = None,
) -> Float32[np.ndarray, "n 2"]:
    """Places of latents in the plane, from the angles between their directions.

    Directions are brought to length 1, so that squared distances are 2 (1 − cos). `pca` is their projection on their
    first two principal components. `tsne` is t-SNE (van der Maaten and Hinton, 2008; scikit-learn's Barnes-Hut,
    perplexity 30, or a third of the others where there are few), started at `pca`. `umap` is UMAP (McInnes et al.,
    2018) with 15 neighbours. Up to three latents lie in a plane as they are: `pca` shows them whatever the method.

    Args:
        directions: of the latents.
        method: `tsne`, `umap` or `pca`.
        seed: decides what is random; the same one gives the same map.
        shown: the latents to show; all by default. The others have no influence.

    Returns:
        Places; NaN for latents that are not shown or whose direction has no length.

    Raises:
        InputError: an unknown method, or umap-learn is not installed.
    """
    method = MapSettings(method=method).method
    unit, kept = _unit(directions, shown)
    made = unit[:, :2]
    if len(unit) <= 3 or method == "pca":
        made = _pca(unit)
    elif method == "tsne":
        made = _tsne(unit, derive_seed(seed, "t-SNE") % 2**32)
    else:
        made = _umap(unit, derive_seed(seed, "UMAP") % 2**32)
    places = np.full((len(directions), 2), np.nan, np.float32)
    places[kept] = made
    return places


def write_map(
    dictionary: Dictionary,
    *,
    atlas: Atlas | None = None,
    method: str = "tsne",
    seed: int = 0,
    out: str | Path,
    overwrite: bool = False,
) -> Float32[np.ndarray, "d_sae 2"]:
    """The map of a dictionary's latents as an artifact; one that is there is read.

    Beside the places it keeps how much of the neighbourhoods they show: the mean share of a latent's 10 nearest by
    cosine that are among its 10 nearest on the map (of up to 1,024 latents drawn at random), and the same by chance.

    Args:
        dictionary: whose directions count.
        atlas: says which latents are dead and not shown; by default all are shown.
        method: see `latent_map`.
        seed: decides what is random.
        out: folder of the artifact.
        overwrite: replace another artifact there.

    Raises:
        InputError: an unknown method, an atlas of another dictionary, or umap-learn is not installed.
    """
    settings = MapSettings(method=method)
    fingerprint = hash_module(dictionary)
    if atlas is not None and atlas.manifest.inputs["dictionary"] != fingerprint:
        raise InputError(f"{atlas.folder} was made from another dictionary")
    shown = None if atlas is None else atlas.column("count") > 0
    inputs = {"dictionary": fingerprint, "atlas": "" if atlas is None else atlas.manifest.id}
    identity = Identity(kind=KIND, config=settings, inputs=inputs, seed=seed)
    if existing(Path(out), identity, overwrite=overwrite):
        return load_map(Path(out))
    with writing(Path(out), identity, overwrite=overwrite) as draft:
        directions = dictionary.directions()
        places = latent_map(directions, method, seed=seed, shown=shown)
        save_tensors(draft.folder / _TENSORS, {"places": torch.from_numpy(places)})
        draft.details.update(hook_name=dictionary.hook_name, d_sae=dictionary.d_sae)
        draft.details["metrics"] = faithfulness(directions, places, seed=seed)
    return places


def load_map(folder: str | Path) -> Float32[np.ndarray, "d_sae 2"]:
    """Places that `write_map` left; NaN for latents that are not shown.

    Raises:
        StoreError: the folder holds something else, or is damaged.
    """
    read_manifest(Path(folder), KIND, verify=True)
    found = load_tensors(Path(folder) / _TENSORS).get("places")
    if found is None or found.ndim != 2 or found.shape[1] != 2:
        raise StoreError(f"{Path(folder) / _TENSORS} holds no places [d_sae, 2]")
    return np.asarray(found.numpy())


@torch.no_grad()
def faithfulness(
    directions: Float[Tensor, "n d"], places: Float32[np.ndarray, "n 2"], *, seed: int = 0
) -> dict[str, float]:
    """How much of each latent's neighbourhood a map shows, and what chance would show; NaN below three latents."""
    unit, kept = _unit(directions, np.isfinite(places).all(1))
    n = len(unit)
    if n < 3:
        return {"map/latents": n, "map/neighbours_kept": np.nan, "map/neighbours_kept@chance": np.nan}
    k = min(_NEAR, n - 2)
    asked = numpy_generator(seed, "neighbours asked").permutation(n)[:_ASKED]
    share = neighbours_kept(unit, places[kept], k, asked)
    return {"map/latents": n, "map/neighbours_kept": share, "map/neighbours_kept@chance": k / (n - 1)}


def _unit(
    directions: Float[Tensor, "n d"], shown: Bool[np.ndarray, " n"] | None
) -> tuple[Float32[np.ndarray, "m d"], Bool[np.ndarray, " n"]]:
    """Directions of length 1 of those that are shown and have one, and which these are."""
    exact = directions.detach().float().cpu()
    length = exact.norm(dim=1)
    kept = (length > 0).numpy() & (True if shown is None else shown)
    chosen = torch.from_numpy(kept)
    return (exact[chosen] / length[chosen, None]).numpy(), kept


def _pca(unit: Float32[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Projection on the two directions of largest variance; of each, the entry largest in size is positive."""
    centred = unit.astype(np.float64) - unit.mean(0, dtype=np.float64) if len(unit) else unit
    _, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    if first.shape[1]:
        first = first * np.sign(first[np.abs(first).argmax(0), np.arange(first.shape[1])])
    places = centred @ first
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _tsne(unit: Float32[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    from sklearn.manifold import TSNE  # noqa: PLC0415 - most of the time that this module would take to import

    start = _pca(unit)
    start = (start / max(float(start[:, 0].std()), 1e-12) * 1e-4).astype(np.float32)
    tsne = TSNE(
        perplexity=min(_PERPLEXITY, (len(unit) - 1) / 3),
        init=start,
        max_iter=_ITERATIONS,
        random_state=seed,
        verbose=2,  # what it prints is where it stands
    )
    # One thread: sums that several add up differ in their last digits from run to run, and t-SNE makes much of that.
    with progress("t-SNE", total=_ITERATIONS, unit="steps") as bar, _steps_told(bar), threadpool_limits(1, "openmp"):
        return np.asarray(tsne.fit_transform(unit))


def _umap(unit: Float32[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    umap = needs("umap", extra="umap", what="a UMAP map")
    near = min(_NEIGHBOURS, len(unit) - 1)
    start = "spectral" if len(unit) > 2 * _NEIGHBOURS else _pca(unit).astype(np.float32)  # too few for a spectrum
    with progress("UMAP", total=len(unit), unit="latents") as bar:
        made = umap.UMAP(n_neighbors=near, metric="cosine", init=start, random_state=seed, n_jobs=1).fit_transform(unit)
        bar.advance(len(unit))
    return np.asarray(made)


@contextlib.contextmanager
def _steps_told(bar: Bar) -> Iterator[None]:
    """Inside the block, what t-SNE prints moves the bar; anything else that is printed goes where it would."""
    with contextlib.redirect_stdout(_Teller(bar, sys.stdout)):
        yield


class _Teller(TextIOBase):
    def __init__(self, bar: Bar, beyond: TextIOBase | TextIO) -> None:
        self._bar, self._beyond, self._line = bar, beyond, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            step = re.match(r"\[t-SNE\] Iteration (\d+): error", line)
            if step:
                self._bar.advance(int(step[1]) - self._bar.done)
            elif not line.startswith("[t-SNE]"):
                self._beyond.write(f"{line}\n")
        return len(text)
