"""Comparing activations: what is planted is told from its nulls, rows are held to be of the same examples."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import unweave as uw
from unweave.compare import Comparing, Comparison, compare, compare_all, read_comparison
from unweave.compare.alignment import Halves
from unweave.compare.latents import THRESHOLDS, compare_codes
from unweave.core.codes import Codes
from unweave.core.errors import InputError, StoreError
from unweave.metrics.similarity import Cross, linear_cka
from unweave.store.activation_writer import ActivationWriter
from unweave.store.activations import RowBlock
from unweave.store.artifact import Identity, writing

QUICK = Comparing(permutations=29, neighbours=3)


def noise(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def planted(seed: int, *, n: int = 120, d: int = 6) -> Tensor:
    """Six sources, turned and bent in each instance's own way."""
    turn = torch.linalg.qr(noise(6, 6, seed)).Q[:, :d]
    return torch.tanh(noise(n, 6, 1000) @ turn) + 0.05 * noise(n, d, seed + 50)


def store(folder: Path, rows: Tensor, *, example: list[int], label: list[int], position: list[int] | None = None):
    place = torch.tensor(position) if position else torch.zeros(len(rows), dtype=torch.int64)
    with writing(folder, Identity(kind="activations", config=str(folder))) as draft:
        writer = ActivationWriter(draft.folder)
        writer.add(RowBlock(rows, torch.tensor(example), place, torch.tensor(label)))
        draft.details.update(writer.close())
    return uw.Activations(folder)


@pytest.fixture(scope="module")
def shared() -> Comparison:
    return compare(planted(1), planted(2), untrained=(noise(120, 6, 3), noise(120, 6, 4)), comparing=QUICK)


def test_what_is_shared_stands_above_every_null(shared: Comparison):
    for measure in ("linear_cka", "rsa", "procrustes", "matched_r", "ridge_r2", "mutual_knn"):
        nulls = [shared.mean(measure, name) for name in shared.conditions if name != "observed"]
        assert shared.mean(measure) > max(nulls), measure
        assert shared.of(measure, "p")[0] == 1 / 30
    assert shared.mean("ridge_r2") > 0.8
    assert shared.sentence.startswith("The instances share what training made, beyond what their architecture gives: ")
    assert "lie above every null; " in shared.sentence


def test_sorted_rows_are_alike_whatever_they_are(shared: Comparison):
    nulls = [shared.mean("sorted_cosine", name) for name in ("untrained", "other_image", "noise", "shuffled")]
    assert shared.mean("sorted_cosine") - max(nulls) < 0.02
    assert min(nulls) > 0.65, "six values in order are alike by themselves, and more of them more so"
    assert shared.mean("sorted_cosine") > 4 * abs(shared.mean("raw_cosine"))


def test_unrelated_rows_share_nothing():
    found = compare(noise(100, 5, 1), noise(100, 5, 2), comparing=Comparing(permutations=99, neighbours=3))
    assert found.sentence.startswith("Nothing shows that the instances share more than")
    assert (found.of("linear_cka", "p") > 0.05).all()
    assert abs(found.mean("matched_r")) < 0.25


def test_p_is_uniform_where_nothing_is_shared():
    quick = Comparing(permutations=19, neighbours=2)
    p = [compare(noise(16, 3, s), noise(16, 3, s + 500), comparing=quick, seed=s).of("rsa", "p")[0] for s in range(40)]
    assert 0.38 < np.mean(p) < 0.67  # 0.525 within 3 standard errors
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_widths_may_differ():
    found = compare(planted(1), planted(2, d=4), comparing=QUICK)
    assert "sorted_cosine" not in found.measures
    assert found.measures[0] == "linear_cka"
    exact = linear_cka(Cross.of(planted(1).numpy(), planted(2, d=4).numpy()))
    assert found.mean("linear_cka") == pytest.approx(exact, rel=1e-5)


def test_without_untrained_networks_the_sentence_says_so():
    found = compare(planted(1), planted(2), comparing=QUICK)
    assert "was not measured" in found.sentence
    assert "untrained" not in found.conditions


def test_all_pairs_and_their_table(tmp_path: Path):
    instances = {name: planted(seed) for name, seed in (("x", 1), ("y", 2), ("z", 3))}
    found = compare_all(instances, comparing=QUICK, out=tmp_path / "found")
    assert list(found.pairs) == [("x", "y"), ("x", "z"), ("y", "z")]
    alone = compare(instances["x"], instances["z"], names=("x", "z"), comparing=QUICK)
    assert found.of("rsa")[1] == pytest.approx(alone.mean("rsa")), "a pair has the same halves in any company"
    assert found.table.num_rows == 3 * len(found.measures)
    assert found.metrics("fc0/")["fc0/linear_cka"] == pytest.approx(found.of("linear_cka").mean())
    assert found.metrics()["linear_cka_p"] == found.of("linear_cka", "p").max()
    assert "each of 3 pairs" in found.sentence
    assert "means over 3 pairs" in str(found)
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"table.parquet", "table.csv", "numbers.json", "similarity.png", "similarity.svg"} <= names
    again = read_comparison(tmp_path / "found")
    assert (again.pairs, again.measures, again.sentence) == (found.pairs, found.measures, found.sentence)
    assert again.table.equals(found.table)


def test_a_comparison_that_is_there_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = compare(planted(1), planted(2), comparing=QUICK, out=tmp_path / "c")
    monkeypatch.setattr(sys.modules["unweave.compare.stage"], "_compare", None)
    assert compare(planted(1), planted(2), comparing=QUICK, out=tmp_path / "c").table.equals(first.table)
    with pytest.raises(InputError, match="made from other settings or inputs"):
        compare(planted(1), planted(3), comparing=QUICK, out=tmp_path / "c")
    with pytest.raises(StoreError):
        read_comparison(tmp_path)


def test_the_seed_decides():
    a, b = planted(1), planted(2)
    one, same, other = (compare(a, b, comparing=QUICK, seed=seed).mean("matched_r") for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_stores_are_aligned_by_example_whatever_their_order(tmp_path: Path):
    rows, order = planted(1), torch.randperm(120, generator=torch.Generator().manual_seed(0)).tolist()
    label = [i % 3 for i in range(120)]
    a = store(tmp_path / "a", planted(2), example=list(range(120)), label=label)
    b = store(tmp_path / "b", rows[order], example=order, label=[label[i] for i in order])
    expected = compare(planted(2), rows, comparing=QUICK)
    assert compare(a, b, comparing=QUICK).mean("rsa") == pytest.approx(expected.mean("rsa"))


def test_the_first_mismatch_is_named(tmp_path: Path):
    def of(name: str, *, n: int = 20, shift: int = 0, label: int = 0):
        return store(
            tmp_path / name, noise(n, 3, 1), example=[*range(n - 1), n - 1 + shift], label=[0] * (n - 1) + [label]
        )

    base = of("base")
    with pytest.raises(InputError, match="a has 20 examples of 1 rows, b has 21"):
        compare(base, of("more", n=21))
    with pytest.raises(InputError, match="row of example 19, position 0 where b has one of example 24"):
        compare(base, of("shifted", shift=5))
    with pytest.raises(InputError, match="example 19 has label 0 in a and 2 in b"):
        compare(base, of("labelled", label=2))
    bad = noise(20, 3, 1)
    bad[7, 1] = torch.nan
    with pytest.raises(InputError, match="b has NaN or Inf in 1 rows, first in row 7"):
        compare(base, bad)


def test_what_cannot_be_compared_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="at least two instances"):
        compare_all({"a": planted(1)})
    with pytest.raises(InputError, match="both called 'x'"):
        compare(planted(1), planted(2), names=("x", "x"))
    with pytest.raises(InputError, match="untrained instances are called"):
        compare_all({"a": planted(1), "b": planted(2)}, untrained={"a": planted(1)})
    with pytest.raises(InputError, match="needs at least 8"):
        compare(noise(7, 3, 1), noise(7, 3, 2))
    with pytest.raises(InputError, match=r"p cannot reach 0\.05 with 18"):
        Comparing(permutations=18)
    with pytest.raises(InputError, match="neighbour_rows must exceed"):
        Comparing(neighbours=10, neighbour_rows=10)
    uneven = store(tmp_path / "u", noise(21, 3, 1), example=[*range(20), 0], label=[0] * 21, position=[0] * 20 + [1])
    with pytest.raises(InputError, match="1 to 2 rows"):
        compare(uneven, uneven)


@pytest.mark.parametrize("each", [1, 3])
def test_orders_keep_halves_and_an_examples_rows_together(each: int):
    halves = Halves(examples=9, each=each, near_examples=5)
    generator = np.random.default_rng(0)
    for _ in range(50):
        for order in (halves.shuffled(generator), halves.other_example(generator)):
            assert sorted(order.rows) == list(range(9 * each))
            assert sorted(order.near) == list(range(5 * each))
            assert (order.rows[: halves.first] < halves.first).all()
            assert np.array_equal(order.rows.reshape(-1, each) % each, np.tile(np.arange(each), (9, 1)))
        assert (order.rows != np.arange(9 * each)).all(), "another example stands beside each"


def test_rows_of_several_positions(tmp_path: Path):
    tokens = {"example": [i // 4 for i in range(80)], "label": [0] * 80, "position": [i % 4 for i in range(80)]}
    a = store(tmp_path / "a", planted(1, n=80), **tokens)
    b = store(tmp_path / "b", planted(2, n=80), **tokens)
    found = compare(a, b, comparing=QUICK)
    assert found.n == 80
    assert found.of("linear_cka", "p")[0] == 1 / 30


def test_few_rows_are_looked_up_for_neighbours():
    found = compare(planted(1), planted(2), comparing=Comparing(permutations=19, neighbours=3, neighbour_rows=30))
    assert found.mean("mutual_knn") > found.mean("mutual_knn", "shuffled")
    assert found.mean("mutual_knn", "shuffled") == pytest.approx(3 / 29, abs=0.05)


def test_the_figure_shows_every_measure(shared: Comparison):
    figure = shared.figure("a layer")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(shared.measures)
    assert "linear CKA" in labels


def test_codes_of_instances(tmp_path: Path):
    base = torch.relu(noise(400, 10, 1) - 0.8)
    own = [torch.relu(noise(400, 10, seed) - 0.8) for seed in (2, 3)]
    codes = {name: Codes.from_dense(torch.cat([base[:, :6], extra], 1)) for name, extra in zip("ab", own, strict=True)}
    found = compare_codes(codes, permutations=19, out=tmp_path / "r")
    assert found.share(0.9) == pytest.approx(6 / 16)
    assert found.share(0.5, null=True) == 0
    assert found.p[0] == 1 / 20
    assert found.live[0] == 16
    again = compare_codes(codes, permutations=19, out=tmp_path / "r")
    assert np.array_equal(again.shares, found.shares)
    assert found.shares.shape == (1, len(THRESHOLDS))
    without = compare_codes(codes)
    assert np.isnan(without.null_mean).all()
    assert without.p[0] == 1
    with pytest.raises(InputError, match="at least two dictionaries"):
        compare_codes({"a": codes["a"]})
