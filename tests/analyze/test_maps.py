"""Maps of latents: what is near stays near, small dictionaries have one too, and the same seed gives the same bits."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from unweave.analyze import Analysis, analyze
from unweave.analyze.maps import KIND, METHODS, _Teller, faithfulness, latent_map, load_map, write_map
from unweave.core.errors import InputError, StoreError
from unweave.core.progress import progress
from unweave.store.artifact import read_manifest


def families(count: int = 5, each: int = 12, d: int = 10) -> torch.Tensor:
    """[count · each, d]: directions of all lengths around `count` random ones."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, 1, d, generator=generator)
    spread = 0.15 * torch.randn(count, each, d, generator=generator)
    length = torch.rand(count, each, 1, generator=generator) + 0.1
    return ((centres + spread) * length).flatten(0, 1)


@pytest.fixture
def no_umap(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)


def test_families_stay_together():
    places = latent_map(families())
    for own in range(60):
        distance = np.square(places - places[own]).sum(1)
        assert set(np.argsort(distance)[:12] // 12) == {own // 12}
    measured = faithfulness(families(), places)
    assert measured["map/latents"] == 60
    assert measured["map/neighbours_kept"] > 0.6 > 3 * measured["map/neighbours_kept@chance"]


def test_chance_is_what_a_map_of_random_places_keeps():
    random = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    directions = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    found = faithfulness(directions, random)
    assert found["map/neighbours_kept"] == pytest.approx(found["map/neighbours_kept@chance"], abs=0.01)


def test_the_same_seed_gives_the_same_bits():
    assert np.array_equal(latent_map(families(), seed=3), latent_map(families(), seed=3))


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_latents_that_are_not_shown_have_no_place_and_no_influence(method):
    directions = families()
    shown = np.arange(60) % 3 > 0
    directions[1] = 0
    places = latent_map(directions, method, shown=shown)
    there = shown & (np.arange(60) != 1)
    assert np.isnan(places[~there]).all()
    assert np.array_equal(places[there], latent_map(directions[torch.from_numpy(there)], method))


def test_principal_components_are_scikit_learns():
    unit = torch.nn.functional.normalize(families(), dim=1).numpy()
    ours, theirs = latent_map(families(), "pca"), PCA(2).fit_transform(unit)
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_up_to_three_latents_lie_as_they_are(n, method, no_umap):
    directions = torch.randn(n, 7, generator=torch.Generator().manual_seed(n))
    unit = torch.nn.functional.normalize(directions, dim=1).numpy()
    places = latent_map(directions, method)
    for a in range(n):
        for b in range(n):
            assert np.linalg.norm(places[a] - places[b]) == pytest.approx(np.linalg.norm(unit[a] - unit[b]), abs=1e-5)


@pytest.mark.parametrize("n", [4, 5, 31])
@pytest.mark.parametrize("d", [1, 2, 40])
def test_fewer_latents_than_neighbours_have_a_map(n, d):
    places = latent_map(torch.randn(n, d, generator=torch.Generator().manual_seed(n)))
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


def test_equal_directions_have_a_map():
    assert np.isfinite(latent_map(torch.ones(9, 3))).all()


def test_umap_is_asked_for_what_the_docstring_says(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, unit):
            return unit[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    unit = torch.nn.functional.normalize(families(), dim=1)
    assert np.allclose(latent_map(families(), "umap"), unit[:, :2])
    assert (asked["n_neighbors"], asked["metric"], asked["init"]) == (15, "cosine", "spectral")
    latent_map(families()[:9], "umap")
    assert asked["n_neighbors"] == 8


@pytest.mark.slow
def test_umap_keeps_families_together():
    pytest.importorskip("umap")
    places = latent_map(families(), "umap")
    assert np.array_equal(places, latent_map(families(), "umap"))
    assert faithfulness(families(), places)["map/neighbours_kept"] > 0.5


def test_without_umap_the_install_is_named(no_umap):
    with pytest.raises(InputError, match=r"a UMAP map needs umap, .* pip install 'unweave\[umap\]'"):
        latent_map(families(), "umap")


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match="no map 'tnse': did you mean 'tsne'"):
        latent_map(families(), "tnse")


def test_a_map_is_an_artifact_without_dead_latents(rows, store_of, dictionary_of, tmp_path):
    x, _ = rows
    sae = dictionary_of(x)
    atlas = analyze(sae, store_of(x), analysis=Analysis(permutations=9))
    places = write_map(sae, atlas=atlas, out=tmp_path / "map@tsne")
    assert np.isnan(places).any(1).tolist() == (atlas.column("count") == 0).tolist()
    assert np.array_equal(load_map(tmp_path / "map@tsne"), places, equal_nan=True)
    manifest = read_manifest(tmp_path / "map@tsne", KIND)
    alive = int((atlas.column("count") > 0).sum())
    assert manifest.details["metrics"]["map/latents"] == alive
    assert manifest.details["metrics"]["map/neighbours_kept@chance"] == pytest.approx(min(10, alive - 2) / (alive - 1))
    assert np.array_equal(write_map(sae, atlas=atlas, out=tmp_path / "map@tsne"), places, equal_nan=True)
    assert not np.isnan(write_map(sae, method="pca", out=tmp_path / "all")).any()
    with pytest.raises(InputError, match="other settings or inputs"):
        write_map(sae, atlas=atlas, seed=1, out=tmp_path / "map@tsne")
    with pytest.raises(InputError, match="made from another dictionary"):
        write_map(dictionary_of(x, k=2), atlas=atlas, out=tmp_path / "other")
    with pytest.raises(StoreError, match="not 'latent-map'"):
        load_map(atlas.folder)


def test_what_tsne_prints_moves_the_bar_and_the_rest_is_printed():
    beyond = io.StringIO()
    with progress("t-SNE", total=1000, unit="steps", quiet=True) as bar:
        teller = _Teller(bar, beyond)
        print("[t-SNE] Computing 91 nearest neighbors...", file=teller)
        print("[t-SNE] Iteration 50: error = 5.1, gradient norm = 0.2 (50 iterations in 0.1s)", file=teller)
        print("somebody else", file=teller)
        assert bar.done == 50
        print("[t-SNE] Iteration 100: error = 5.0, gradient norm = 0.1 (50 iterations in 0.1s)", file=teller)
        assert bar.done == 100
    assert beyond.getvalue() == "somebody else\n"


def test_tsne_still_prints_what_the_bar_reads(monkeypatch):
    seen = []
    monkeypatch.setattr("unweave.core.progress.Bar.advance", lambda _bar, amount=1, **_: seen.append(amount))
    latent_map(families())
    assert len(seen) >= 3
