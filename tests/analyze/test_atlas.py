"""The atlas of a small dictionary against dense brute force."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, mutual_info_score
from torch.utils.data import DataLoader, TensorDataset

from unweave.analyze import Analysis, Atlas, analyze
from unweave.analyze.stage import label_metrics_when_shuffled
from unweave.core.errors import InputError, StoreError
from unweave.datasets.base import MemoryImages

STAGE = sys.modules[label_metrics_when_shuffled.__module__]  # the root's function of that name hides the package
QUICK = Analysis(permutations=99, top=4, bins=5, selective=3, live_share=0.05, dense_share=0.4)
NAMES = ["no", "yes", "never"]


@pytest.fixture
def study(rows, store_of, dictionary_of):
    """Rows, labels, the dictionary, the dense codes, and the atlas of them."""
    x, label = rows
    sae = dictionary_of(x)
    atlas = analyze(sae, store_of(x, label, NAMES), analysis=QUICK)
    return x, label.numpy(), sae, sae.encode(x).numpy(), atlas


def test_the_table_of_latents_agrees_with_dense_codes(study):
    _, label, _, dense, atlas = study
    fires = dense > 0
    assert np.array_equal(atlas.column("latent"), np.arange(12))
    assert np.array_equal(atlas.column("count"), fires.sum(0))
    assert np.allclose(atlas.column("rate"), fires.mean(0))
    assert np.allclose(atlas.column("max"), dense.max(0))
    assert np.allclose(atlas.column("mean"), [d[d > 0].mean() if (d > 0).any() else 0 for d in dense.T], rtol=1e-5)
    rate = fires.mean(0)
    expected = np.select([rate == 0, rate <= 0.05, rate > 0.4], ["dead", "rare", "dense"], "live")
    assert atlas.latents["status"].to_pylist() == expected.tolist()
    assert expected[-1] == "dead"
    information = [mutual_info_score(label, f) / np.log(2) for f in fires.T]
    assert np.allclose(atlas.column("mutual_information"), information, atol=1e-12)
    precision = np.array([[average_precision_score(label == c, d) for c in (0, 1)] for d in dense.T])
    assert np.array_equal(atlas.column("best_class"), precision.argmax(1))
    assert np.allclose(atlas.column("average_precision"), precision.max(1))
    for j, f in enumerate(fires.T):
        if f.any():
            counts = np.bincount(label[f], minlength=3)
            assert atlas.column("top_class")[j] == counts.argmax()
            assert atlas.column("top_class_share")[j] == pytest.approx(counts.max() / f.sum())
    assert (atlas.column("q") >= atlas.column("p") - 1e-12).all()
    assert atlas.column("p").min() == 0.01
    assert atlas.column("p")[-1] == atlas.column("q")[-1] == 1


def test_the_other_tables_agree_with_dense_codes(study):
    _, label, _, dense, atlas = study
    assert np.array_equal(atlas.codes.dense().numpy(), dense)
    length = np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-30)
    table = atlas.examples.to_pydict()
    for name, values in (("value", dense), ("relative", dense / length)):
        for j in range(12):
            mine = [i for i in range(len(table["row"])) if table["order"][i] == name and table["latent"][i] == j]
            expected = np.argsort(-values[:, j], kind="stable")[: min(4, int((dense[:, j] > 0).sum()))]
            assert [table["rank"][i] for i in mine] == list(range(len(mine)))
            assert np.allclose([table["value"][i] for i in mine], values[expected, j], rtol=1e-5)
            if name == "value":
                assert [table["row"][i] for i in mine] == expected.tolist()
            assert all(table["example"][i] == table["row"][i] and table["position"][i] == 0 for i in mine)
    by_class = np.stack([(dense[label == c] > 0).sum(0) for c in range(3)], 1)
    weights = np.stack([dense[label == c].sum(0) for c in range(3)], 1)
    assert np.array_equal(np.asarray(atlas.labels["count"]).reshape(12, 3), by_class)
    assert np.allclose(np.asarray(atlas.labels["weight"]).reshape(12, 3), weights, rtol=1e-5)
    assert np.asarray(atlas.labels["class"]).tolist() == [0, 1, 2] * 12
    assert atlas.class_totals.tolist() == [60, 30, 0]
    best = [average_precision_score(label == 1, d) for d in dense.T]
    selective = [row for row in atlas.selective.to_pylist() if row["class"] == 1]
    assert [row["average_precision"] for row in selective] == pytest.approx(sorted(best, reverse=True)[:3])
    assert [best[row["latent"]] for row in selective] == pytest.approx(sorted(best, reverse=True)[:3])


def test_the_metrics_agree_with_dense_codes(study):
    x, label, sae, dense, atlas = study
    m, fires = atlas.metrics, dense > 0
    residual = x.double() - sae.decode(torch.from_numpy(dense)).double()
    assert m["dictionary/explained_variance"] == pytest.approx(
        float(1 - residual.square().sum() / (x.double() - x.double().mean(0)).square().sum()), rel=1e-6
    )
    assert m["dictionary/reconstruction_sum_squares"] == pytest.approx(float(residual.square().sum(1).mean()), rel=1e-6)
    assert m["dictionary/l0"] == fires.sum(1).mean()
    rate = fires.mean(0)
    assert (m["dictionary/dead"], m["dictionary/live"]) == ((rate == 0).sum(), (rate > 0.05).sum())
    assert m["dictionary/dense"] == (rate > 0.4).sum()
    assert (m["dictionary/d_sae"], m["dictionary/rows"]) == (12, 90)
    live = rate > 0.05
    shares = atlas.column("top_class_share")[live]
    assert m["labels/top_class_share_median"] == np.median(shares)
    assert m["labels/top_class_share_max"] == shares.max()
    assert m["labels/mutual_information_mean"] == pytest.approx(atlas.column("mutual_information")[live].mean())
    assert m["labels/mutual_information_max"] == atlas.column("mutual_information")[live].max()
    assert m["labels/significant_share"] == (atlas.column("q")[live] < 0.05).mean()
    # A class without an example is no class that the latents failed to find.
    best = [max(average_precision_score(label == c, d) for d in dense.T[live]) for c in (0, 1)]
    assert m["labels/average_precision_mean"] == pytest.approx(np.mean(best))
    purity = [np.bincount(label[np.argsort(-d, kind="stable")[: min(4, (d > 0).sum())]]).max() for d in dense.T[live]]
    tops = [min(4, int((d > 0).sum())) for d in dense.T[live]]
    assert m["labels/top_examples_purity_mean"] == pytest.approx(np.mean(np.array(purity) / tops))


def test_the_block_size_does_not_matter(rows, store_of, dictionary_of, monkeypatch):
    x, label = rows
    sae, store = dictionary_of(x), store_of(x, label)
    atlases = []
    for block in (1, 7, 90, 8192):
        monkeypatch.setattr(STAGE, "_ROWS_A_BLOCK", block)
        atlases.append(analyze(sae, store, analysis=QUICK))
    for other in atlases[1:]:
        assert other.metrics == pytest.approx(atlases[0].metrics, rel=1e-6)
        assert other.latents["status"].equals(atlases[0].latents["status"])
        assert np.array_equal(other.column("count"), atlases[0].column("count"))


def test_without_labels_and_images(rows, store_of, dictionary_of):
    x, _ = rows
    atlas = analyze(dictionary_of(x), store_of(x), analysis=QUICK)
    assert (atlas.labels, atlas.selective, atlas.class_names, atlas.class_totals, atlas.thumbnails) == (None,) * 5
    assert not [name for name in atlas.metrics if name.startswith("labels/")]
    assert atlas.top_images(0) is None
    assert isinstance(atlas.show(0), Figure)
    assert "mutual_information" not in atlas.latents.column_names


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dictionary_that_is_all_dead(rows, store_of, dictionary_of, labelled):
    x, label = rows
    images = torch.randint(255, (90, 1, 4, 4), dtype=torch.uint8)
    atlas = analyze(dictionary_of(x, all_dead=True), store_of(x, label if labelled else None), images=images)
    assert atlas.latents["status"].to_pylist() == ["dead"] * 12
    assert (atlas.metrics["dictionary/l0"], atlas.metrics["dictionary/live"]) == (0, 0)
    assert not [name for name in atlas.metrics if name.startswith("labels/")]
    assert atlas.examples.num_rows == 0
    assert atlas.top_images(3).shape == (0, 1, 4, 4)
    assert isinstance(atlas.show(3), Figure)
    assert atlas.codes.nnz == 0


def test_several_rows_of_an_example_count_once(store_of, dictionary_of):
    x = torch.randn(40, 6, 4, generator=torch.Generator().manual_seed(2))
    label = torch.arange(40) % 2
    x[label == 1, 0] += 3
    sae = dictionary_of(x, k=2)
    atlas = analyze(sae, store_of(x, label, rows="position"), analysis=QUICK)
    dense = sae.encode(x).numpy()  # [40, 6, 12]
    assert np.array_equal(atlas.column("count"), (dense > 0).sum((0, 1)))
    fires = (dense > 0).any(1)
    counts = np.stack([fires[label == c].sum(0) for c in (0, 1)], 1)
    assert np.array_equal(np.asarray(atlas.labels["count"]).reshape(12, 2), counts)
    assert atlas.class_totals.tolist() == [20, 20]
    information = [mutual_info_score(label, f) / np.log(2) for f in fires.T]
    assert np.allclose(atlas.column("mutual_information"), information, atol=1e-12)
    strongest = dense.max(1)
    precision = [[average_precision_score(label == c, d) for c in (0, 1)] for d in strongest.T]
    assert np.allclose(atlas.column("average_precision"), np.max(precision, 1))
    live = atlas.column("rate") > 0.05
    tops = [np.argsort(-d, kind="stable")[: min(4, (d > 0).sum())] for d in strongest.T[live]]
    purity = np.mean([np.bincount(label[torch.from_numpy(t)]).max() / len(t) for t in tops])
    assert atlas.metrics["labels/top_examples_purity_mean"] == pytest.approx(purity)
    top = atlas.examples.to_pylist()
    assert all(row["row"] == 6 * row["example"] + row["position"] for row in top)


def test_examples_need_not_be_consecutive_nor_in_order(rows, store_of, dictionary_of):
    x, label = rows
    sae, chosen = dictionary_of(x), [80, 3, 7, 41, 5, 66, 12, 30, 33, 60]
    pixels = torch.arange(90, dtype=torch.uint8).view(90, 1, 1, 1).expand(90, 1, 2, 2).contiguous()
    loader = DataLoader(TensorDataset(x, label), batch_sampler=[chosen[:4], chosen[4:]])
    atlas = analyze(sae, store_of(loader), images=pixels, analysis=QUICK)
    dense, kept = sae.encode(x[chosen]).numpy(), label[chosen].numpy()
    assert atlas.class_totals.tolist() == np.bincount(kept).tolist()
    information = [mutual_info_score(kept, d > 0) / np.log(2) for d in dense.T]
    assert np.allclose(atlas.column("mutual_information"), information, atol=1e-12)
    for j in np.flatnonzero(dense.any(0)):
        order = np.argsort(-dense[:, j], kind="stable")[: min(4, (dense[:, j] > 0).sum())]
        assert atlas.top_images(int(j))[:, 0, 0, 0].tolist() == [chosen[i] for i in order]


def test_shuffled_labels_tell_next_to_nothing(rows, store_of, dictionary_of):
    x, label = rows
    store = store_of(x, label)
    atlas = analyze(dictionary_of(x), store, analysis=QUICK)
    shuffled = label_metrics_when_shuffled(atlas, store, seed=0)
    assert set(shuffled) == {name for name in atlas.metrics if name.startswith("labels/")}
    chance = 1 / (2 * 90 * np.log(2))
    assert shuffled["labels/mutual_information_mean"] < 3 * chance < atlas.metrics["labels/mutual_information_mean"]
    assert shuffled["labels/significant_share"] <= 0.25
    assert shuffled == label_metrics_when_shuffled(atlas, store, seed=0)
    assert shuffled != label_metrics_when_shuffled(atlas, store, seed=1)
    with pytest.raises(InputError, match="other activations"):
        label_metrics_when_shuffled(atlas, store_of(x + 1, label), seed=0)
    unlabelled = store_of(x)
    with pytest.raises(InputError, match="no labels"):
        label_metrics_when_shuffled(analyze(dictionary_of(x), unlabelled, analysis=QUICK), unlabelled, seed=0)


def test_a_single_class_says_nothing(rows, store_of, dictionary_of):
    x, _ = rows
    atlas = analyze(dictionary_of(x), store_of(x, [0] * 90), analysis=QUICK)
    assert not [name for name in atlas.metrics if name.startswith("labels/")]
    assert not atlas.class_names
    assert isinstance(atlas.show(0), Figure)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [([0, 2], ["a", "b"], "label 2 but only 2 class names"), ([0, -1], None, "count from 0, got -1")],
)
def test_labels_without_a_name_are_refused(store_of, dictionary_of, labels, names, message):
    x = torch.rand(2, 3)
    with pytest.raises(InputError, match=message):
        analyze(dictionary_of(x), store_of(x, labels, names), analysis=QUICK)


def test_what_does_not_fit_is_refused(rows, store_of, dictionary_of):
    x, label = rows
    with pytest.raises(InputError, match="width 4, the store has 5"):
        analyze(dictionary_of(x[:, :4]), store_of(x))
    atlas = analyze(dictionary_of(x), store_of(x, label), analysis=QUICK)
    for latent in (-1, 12):
        with pytest.raises(InputError, match=f"no latent {latent}"):
            atlas.show(latent)
    for name in ("top", "bins", "permutations", "selective"):
        with pytest.raises(InputError, match=name):
            Analysis(**{name: 0})


def test_an_atlas_that_is_there_is_read_and_anything_else_refused(rows, store_of, dictionary_of, tmp_path, monkeypatch):
    x, label = rows
    store, sae, out = store_of(x, label), dictionary_of(x), tmp_path / "atlas"
    images = MemoryImages(torch.zeros(90, 1, 2, 2, dtype=torch.uint8), label, ["a", "b"])
    wanted = {"activations": store, "images": images, "analysis": QUICK, "seed": 3, "out": out}
    first = analyze(sae, **wanted)
    with monkeypatch.context() as patch:
        patch.setattr(STAGE, "encode_store", lambda *_: pytest.fail("encoded again"))
        again = analyze(sae, **wanted)
    assert again.metrics == first.metrics
    assert again.analysis == QUICK
    assert Atlas(out).hook_name == "0"
    changes = [{"seed": 4}, {"images": None}, {"analysis": Analysis()}, {"activations": store_of(x + 1, label)}]
    for change in changes:
        with pytest.raises(InputError, match="other settings or inputs"):
            analyze(sae, **{**wanted, **change})
    with pytest.raises(InputError, match="other settings or inputs"):
        analyze(dictionary_of(x, k=2), **wanted)


@pytest.mark.parametrize("name", ["latents.parquet", "codes.safetensors", "manifest.json"])
def test_a_damaged_atlas_is_named(rows, store_of, dictionary_of, tmp_path, name):
    x, label = rows
    analyze(dictionary_of(x), store_of(x, label), analysis=QUICK, out=tmp_path / "atlas")
    path = tmp_path / "atlas" / name
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            Atlas(tmp_path / "atlas")
