"""What is read of one latent, without the others: against the whole tables, from new atlases and old ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unweave.analyze import Analysis, Atlas, analyze, thumbnails
from unweave.analyze.atlas import BY_LATENT, EXAMPLES, LATENTS, ORDERS, ROWS
from unweave.core.errors import InputError, StoreError
from unweave.metrics.entries import by_latent
from unweave.store.artifact import MANIFEST
from unweave.store.files import load_table, save_table

QUICK = Analysis(permutations=9, top=4, bins=5, selective=3)
PIXELS = torch.arange(90, dtype=torch.uint8).view(90, 1, 1, 1)


@pytest.fixture
def made(rows, store_of, dictionary_of, tmp_path):
    """Rows, dense codes, and the atlas of them, on disk."""
    x, label = rows
    sae = dictionary_of(x)
    atlas = analyze(sae, store_of(x, label), images=PIXELS, analysis=QUICK, seed=5, out=tmp_path / "atlas")
    return x, sae.encode(x).numpy(), atlas


def as_it_was(folder: Path, to: Path) -> Path:
    """The atlas as the version before wrote it: two orders one after the other, no entries, no rows."""
    shutil.copytree(folder, to)
    table = load_table(to / EXAMPLES).to_pydict()
    keep = [i for name in ORDERS[:2] for i, order in enumerate(table["order"]) if order == name]
    save_table(to / EXAMPLES, {name: [column[i] for i in keep] for name, column in table.items()})
    latents = load_table(to / LATENTS)
    save_table(to / LATENTS, {name: latents[name] for name in latents.column_names if name != "importance"})
    manifest = json.loads((to / MANIFEST).read_text())
    del manifest["checksum"]
    for gone in (BY_LATENT, ROWS):
        (to / gone).unlink()
        del manifest["files"][gone]
    for name in (EXAMPLES, LATENTS):
        manifest["files"][name]["size"] = (to / name).stat().st_size
    (to / MANIFEST).write_text(json.dumps(manifest))
    return to


def test_every_order_holds_examples_on_which_the_latent_fires(made):
    _, dense, atlas = made
    table = atlas.examples.to_pandas()
    assert table["latent"].is_monotonic_increasing
    for j in range(12):
        fires = np.flatnonzero(dense[:, j] > 0)
        ranked = fires[np.argsort(-dense[fires, j], kind="stable")]
        for order in ORDERS:
            mine = table[(table["latent"] == j) & (table["order"] == order)]
            assert mine["rank"].tolist() == list(range(min(4, len(fires))))
            assert mine["example"].is_unique
            assert set(mine["row"]) <= set(fires)
            if order != "relative":
                assert np.allclose(mine["value"], dense[mine["row"], j])
        spread = table[(table["latent"] == j) & (table["order"] == "quantile")]["row"].to_numpy()
        if len(fires) > 1:
            places = np.floor(np.arange(len(spread)) * (len(fires) - 1) / (len(spread) - 1) + 0.5).astype(int)
            assert spread.tolist() == ranked[places].tolist()


def test_the_seed_decides_the_draw_and_nothing_else_of_the_examples(rows, store_of, dictionary_of, made):
    x, label = rows
    _, _, atlas = made
    store, sae = store_of(x, label), dictionary_of(x)
    same, other = (analyze(sae, store, images=PIXELS, analysis=QUICK, seed=seed) for seed in (5, 6))
    assert same.examples.equals(atlas.examples)
    ours, theirs = atlas.examples.to_pandas(), other.examples.to_pandas()
    drawn = ours["order"] == "random"
    assert ours[~drawn].equals(theirs[~drawn])
    assert not ours[drawn].equals(theirs[drawn])


def test_one_latents_rows_are_those_of_the_whole_tables(made):
    _, dense, atlas = made
    examples, labels = atlas.examples.to_pandas(), atlas.labels.to_pandas()
    for j in range(12):
        mine = examples[examples["latent"] == j]
        assert atlas.examples_of(j).to_pydict() == mine.to_dict("list")
        for order in ORDERS:
            some = mine[mine["order"] == order]
            assert atlas.examples_of(j, order)["row"].to_pylist() == some["row"].tolist()
            assert atlas.top_images(j, order).ravel().tolist() == some["example"].tolist()
        assert atlas.labels_of(j)["count"].to_pylist() == labels[labels["latent"] == j]["count"].tolist()
        assert atlas.numbers_of(j) == atlas.latents.slice(j, 1).to_pylist()[0]
        counts, largest = atlas.histogram_of(j)
        assert counts.sum() == (dense[:, j] > 0).sum()
        assert largest == dense[:, j].max()
        row, value = atlas.entries.of(j)
        assert row.tolist() == np.flatnonzero(dense[:, j]).tolist()
        assert value.tolist() == dense[row, j].tolist()


def test_rows_say_where_they_come_from(store_of, dictionary_of):
    x = torch.randn(40, 6, 4, generator=torch.Generator().manual_seed(2))
    label = torch.arange(40) % 2
    sae = dictionary_of(x, k=2)
    atlas = analyze(sae, store_of(x, label, rows="position"), analysis=QUICK)
    assert atlas.rows.example.tolist() == np.repeat(np.arange(40), 6).tolist()
    assert atlas.rows.position.tolist() == list(range(6)) * 40
    assert atlas.rows.label.tolist() == label.repeat_interleave(6).tolist()
    assert analyze(sae, store_of(x, rows="position"), analysis=QUICK).rows.label is None
    table = atlas.examples.to_pandas()
    assert not table.duplicated(["order", "latent", "example"]).any()
    strongest = sae.encode(x).numpy().max(1)
    values = table[table["order"] != "relative"]
    assert np.allclose(values["value"], strongest[values["example"], values["latent"]])


def test_an_atlas_of_an_earlier_version_has_less_and_still_opens(made, tmp_path):
    _, _, atlas = made
    old = Atlas(as_it_was(atlas.folder, tmp_path / "old"), verify=False)
    for j in range(12):
        for order in ("value", "relative"):
            assert np.array_equal(old.top_images(j, order), atlas.top_images(j, order))
        for order in ("quantile", "random"):
            assert old.examples_of(j, order).num_rows == 0
            assert old.top_images(j, order).shape == (0, 1, 1, 1)
        assert np.array_equal(old.entries.of(j)[0], atlas.entries.of(j)[0])
        assert old.card(j).numbers == {name: v for name, v in atlas.numbers_of(j).items() if name != "importance"}
    assert old.rows is None


def test_entries_on_disk_are_those_of_the_codes(made):
    _, _, atlas = made
    again = by_latent(atlas.codes)
    assert atlas.entries.n == 90
    for name in ("offsets", "row", "value"):
        assert np.array_equal(getattr(atlas.entries, name), getattr(again, name))


def test_importance_is_the_share_of_variance(made, rows, dictionary_of):
    x, dense, atlas = made
    sae = dictionary_of(x)
    added = torch.from_numpy(dense).double()[:, :, None] * sae.directions().double()
    variance = (x.double() - x.double().mean(0)).square().sum(1).mean()
    assert np.allclose(atlas.column("importance"), added.square().sum(2).mean(0) / variance)
    assert atlas.column("importance")[-1] == 0


def test_what_is_asked_for_must_be_there(made):
    _, _, atlas = made
    for ask in (atlas.examples_of, atlas.labels_of, atlas.numbers_of, atlas.histogram_of, atlas.top_images):
        for latent in (-1, 12):
            with pytest.raises(InputError, match=f"no latent {latent}: the dictionary has 12"):
                ask(latent)
    with pytest.raises(InputError, match="no order 'quantil' of examples: did you mean 'quantile'"):
        atlas.top_images(0, "quantil")


def test_without_verification_only_sizes_are_compared(made):
    _, _, atlas = made
    path = atlas.folder / LATENTS
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    with pytest.raises(StoreError, match="checksum differs"):
        Atlas(atlas.folder)
    assert Atlas(atlas.folder, verify=False).metrics == atlas.metrics
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="bytes where its manifest says"):
        Atlas(atlas.folder, verify=False)


def test_pictures_shrink_where_they_are_very_many(rows, store_of, dictionary_of, monkeypatch):
    x, _ = rows
    images = torch.randint(255, (90, 3, 120, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sae, store = dictionary_of(x), store_of(x)
    shown = len(np.unique(analyze(sae, store, images=images, analysis=QUICK).thumbnails.example))
    for side, limit in ((96, 1 << 30), (64, shown * 3 * 64 * 32), (48, shown * 3 * 64 * 32 - 1), (32, 1)):
        monkeypatch.setattr(thumbnails, "_ALL_BYTES", limit)
        atlas = analyze(sae, store, images=images, analysis=QUICK)
        assert atlas.thumbnails.pixels.shape == (shown, 3, side, side // 2)
