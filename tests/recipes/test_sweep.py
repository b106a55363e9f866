import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import unweave as uw
from unweave.core.codes import Codes
from unweave.metrics.entries import by_latent
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.metrics.sparsity import firing
from unweave.recipes import sweep as module
from unweave.recipes.sweep_result import CSV, PARQUET, SWEEP, Control, Point, Sweep
from unweave.train.trainer import Trainer

SHORT = uw.Training(epochs=3, batch_size=32)
TOPKS = [uw.TopK(d_sae=16, k=k) for k in (2, 4)]


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Rows of width 8: a few of 12 directions each."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=1)
    active = torch.rand(400, 12, generator=generator) < 0.2
    return (active * (1 + torch.rand(400, 12, generator=generator))) @ directions


@pytest.fixture(scope="module")
def found(rows: Tensor) -> uw.Sweep:
    return uw.sweep(rows[:300], TOPKS, SHORT, seeds=(0, 1, 2), test=rows[300:])


def same_bits(first: Any, second: Any) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_dictionary_is_the_one_that_training_alone_gives(found: uw.Sweep, rows: Tensor) -> None:
    names = [f"k={k},seed={seed}" for k in (2, 4) for seed in (0, 1, 2)]
    assert list(found.dictionaries) == names
    alone = uw.train(rows[:300], TOPKS[1], SHORT, seed=2)
    assert same_bits(found.dictionaries["k=4,seed=2"], alone)


def test_the_table_has_a_row_for_each(found: uw.Sweep, rows: Tensor) -> None:
    table = found.table
    assert table.column_names[:6] == ["name", "kind", "k", "seed", "explained_variance", "l0"]
    assert table["k"].to_pylist() == [2, 2, 2, 4, 4, 4]
    assert table["rows"].to_pylist() == [100] * 6
    dictionary = found.dictionaries["k=2,seed=1"]
    missed = (rows[300:] - dictionary(rows[300:])).double().square().sum()
    explained = 1 - missed / (rows[300:] - rows[300:].mean(0)).double().square().sum()
    assert table["explained_variance"][1].as_py() == pytest.approx(float(explained), rel=1e-5)
    assert max(table["l0"].to_pylist()[:3]) <= 2


def test_controls_stand_at_the_same_l0(found: uw.Sweep, rows: Tensor) -> None:
    assert [(c.condition, c.k) for c in found.controls] == [
        (name, k) for name in ("neurons", "pca", "random") for k in (2, 4)
    ]
    pca = uw.train(rows[:300], uw.PCA(k=4))
    sums = ReconstructionSums(8)
    sums.add(rows[300:], pca(rows[300:]))
    beside = {(c.condition, c.k): c.metrics["dictionary/explained_variance"] for c in found.controls}
    assert beside["pca", 4] == pytest.approx(sums.explained_variance)
    assert found.settings[1].beside["pca"] == beside["pca", 4]


def test_numbers_are_those_of_an_atlas(rows: Tensor) -> None:
    dictionary = uw.train(rows[:300], uw.ReLU(d_sae=16, l1=2.0), SHORT)
    measured = module.measure_all({"it": dictionary}, module.TensorRows(rows))["it"]
    codes = Codes.from_dense(dictionary.encode(rows))
    counts = firing(by_latent(codes)).count
    assert measured["dictionary/l0"] == codes.nnz / 400
    assert measured["dictionary/dead"] == (counts == 0).sum()
    assert measured["dictionary/live"] == (counts > 0.4).sum()


def test_settings_are_means_and_deviations_over_seeds(found: uw.Sweep) -> None:
    first, second = found.settings
    values = found.table["explained_variance"].to_pylist()
    mean = sum(values[:3]) / 3
    assert (first.label, second.label, first.series) == ("k=2", "k=4", "topk")
    assert first.mean("dictionary/explained_variance") == pytest.approx(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values[:3]) / 2)
    assert first.deviation("dictionary/explained_variance") == pytest.approx(deviation)


def point(l0: float, seed: int = 0, kind: str = "topk", **options: Any) -> Point:
    name = ",".join([*(f"{k}={v}" for k, v in options.items()), f"seed={seed}"])
    metrics = {"dictionary/l0": l0, "dictionary/explained_variance": 0.9}
    metrics |= {"dictionary/dead": 1.0, "dictionary/live": 3.0, "dictionary/d_sae": 4.0}
    return Point(name=name, kind=kind, options=options, seed=seed, metrics=metrics)


def test_lines_run_along_the_option_that_moves_l0() -> None:
    points = [point(4, k=4, learning_rate=1), point(3.9, k=4, learning_rate=2)]
    points += [point(8, k=8, learning_rate=1), point(7.5, k=8, learning_rate=2)]
    settings = Sweep(points, [], "").settings
    assert [s.series for s in settings] == ["topk learning_rate=1", "topk learning_rate=2"] * 2


def test_each_kind_has_a_line_of_its_own() -> None:
    both = [
        replace(point(l0, kind=kind), options={"kind": kind, option: value})
        for kind, option, value, l0 in (
            ("topk", "k", 4, 4),
            ("topk", "k", 8, 8),
            ("relu", "l1", 0.5, 5),
            ("relu", "l1", 0.1, 9),
        )
    ]
    settings = Sweep(both, [], "").settings
    assert [(s.label, s.series) for s in settings] == [
        ("topk k=4", "topk"),
        ("topk k=8", "topk"),
        ("relu l1=0.5", "relu"),
        ("relu l1=0.1", "relu"),
    ]


def test_one_setting_under_several_seeds_is_a_sweep(rows: Tensor) -> None:
    found = uw.sweep(rows, [uw.TopK(d_sae=16, k=2)], SHORT, seeds=(3, 5))
    assert list(found.dictionaries) == ["seed=3", "seed=5"]
    assert [setting.label for setting in found.settings] == ["topk"]
    assert found.judged_on == "training rows"
    assert isinstance(found.figure(), Figure)


def test_several_trainings_are_part_of_the_grid(rows: Tensor) -> None:
    trainings = [uw.Training(epochs=2, batch_size=32, learning_rate=rate) for rate in (1e-3, 1e-2)]
    found = uw.sweep(rows, TOPKS[:1], trainings)
    assert found.table["learning_rate"].to_pylist() == [1e-3, 1e-2]
    assert list(found.dictionaries) == ["learning_rate=0.001,seed=0", "learning_rate=0.01,seed=0"]


def test_a_training_that_fails_is_told_in_the_table(rows: Tensor) -> None:
    trainings = [uw.Training(epochs=2, learning_rate=rate, scale_inputs=False) for rate in (1e-3, 1e30)]
    found = uw.sweep(rows, TOPKS[:1], trainings)
    assert list(found.dictionaries) == ["learning_rate=0.001,seed=0"]
    assert list(found.failed) == ["learning_rate=1e+30,seed=0"]
    assert found.table["explained_variance"].to_pylist()[1] is None
    assert "no longer finite" in found.table["error"].to_pylist()[1]
    assert [setting.failed for setting in found.settings] == [0, 1]
    assert isinstance(found.figure(), Figure)


def test_where_every_training_fails_there_is_no_sweep(rows: Tensor) -> None:
    bad = uw.Training(epochs=2, learning_rate=1e30, scale_inputs=False)
    with pytest.raises(uw.InputError, match=r"k=2,seed=0 failed: .*no longer finite.*; so did the other 1"):
        uw.sweep(rows, TOPKS, bad)


def test_a_sweep_is_written_and_read_back(rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = uw.sweep(rows[:300], TOPKS, SHORT, test=rows[300:], out=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {SWEEP, CSV, PARQUET, "sae@k=2,seed=0", "sae@pca,k=4"} <= names
    assert pyarrow.parquet.read_table(tmp_path / PARQUET).equals(found.table)
    assert pyarrow.csv.read_csv(tmp_path / CSV).column_names == found.table.column_names
    back = Sweep.read(tmp_path)
    assert (back.points, back.controls, back.judged_on) == (found.points, found.controls, "held-out rows")
    assert same_bits(uw.load(tmp_path / "sae@k=2,seed=0"), found.dictionaries["k=2,seed=0"])
    monkeypatch.setattr(Trainer, "train_batch", lambda *_: pytest.fail("it is there already"))
    again = uw.sweep(rows[:300], TOPKS, SHORT, test=rows[300:], out=tmp_path)
    assert again.points == found.points


def test_numbers_that_there_are_not_survive_the_file(tmp_path: Path) -> None:
    constant = point(4)
    constant.metrics["dictionary/explained_variance"] = float("nan")
    Sweep([constant], [Control(condition="pca", k=4, metrics={"x": float("nan")})], "rows").save(tmp_path)
    back = Sweep.read(tmp_path)
    assert math.isnan(back.points[0].metrics["dictionary/explained_variance"])
    assert math.isnan(back.controls[0].metrics["x"])


@pytest.mark.parametrize("content", ["{}", "[]", '{"points": [{"nam": 1}], "controls": [], "judged_on": ""}', "{"])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / SWEEP).write_text(content)
    with pytest.raises(uw.StoreError, match=SWEEP):
        Sweep.read(tmp_path)


def test_levels_of_controls_are_bounded() -> None:
    assert module._spread([1, 2, 8]) == [1, 2, 8]
    many = module._spread(list(range(1, 500)))
    assert (many[0], many[-1]) == (1, 499)
    assert 8 <= len(many) <= 16
    assert sum(level <= 22 for level in many) == pytest.approx(len(many) / 2, abs=2), "even over orders of magnitude"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dictionaries": []}, "at least one dictionary"),
        ({"training": []}, "at least one dictionary and one training"),
        ({"seeds": ()}, "seeds must be different numbers, at least one"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"test": torch.ones(4, 3)}, "width 3, those to train on 8"),
        ({"rows": torch.ones(4)}, r"rows must be a floating-point tensor \[n, d_in\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_told(rows: Tensor, change: dict[str, Any], words: str) -> None:
    with pytest.raises(uw.InputError, match=words):
        uw.sweep(**{"rows": rows, "dictionaries": TOPKS, "training": SHORT, **change})


@pytest.mark.parametrize("stream", [iter([torch.ones(4, 8)]), [torch.ones(4, 8)]], ids=["iterator", "list"])
def test_rows_that_cannot_be_read_again_are_refused(stream: object) -> None:
    with pytest.raises(uw.InputError, match="test must be Activations, StreamedRows or a tensor"):
        module._rows(stream, "test")


def test_a_stream_is_captured_and_judged_once_for_all_dictionaries() -> None:
    """Passes of the model: its sample, an epoch for all that train together, and one over the rows to judge on."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU())
    inputs = torch.randn(700, 6, generator=torch.Generator().manual_seed(0))
    rows = uw.StreamedRows(network, inputs[:500], at="1", batch_size=50, sample_rows=200)
    test = uw.StreamedRows(network, inputs[500:], at="1", batch_size=50, sample_rows=1)
    training = [uw.Training(epochs=2, batch_size=size) for size in (32, 50)]
    found = uw.sweep(rows, TOPKS, training, seeds=(0, 1), test=test)
    assert len(found.dictionaries) == 8
    sampled = rows.stream.sample().examples
    assert sampled <= 250
    assert rows.stream.forward.examples == sampled + 2 * 500
    assert test.stream.forward.examples == 50 + 200
    assert found.judged_on == "held-out rows"
    assert found.table["rows"].to_pylist() == [200] * 8
    assert {(c.condition, c.k) for c in found.controls} == {
        (n, k) for n in ("neurons", "pca", "random") for k in (2, 4)
    }
    stored = uw.sweep(rows.sample().blocks(500).__next__(), [uw.PCA(k=2)], test=torch.cat(list(test.blocks(200))))
    beside = {(c.condition, c.k): c.metrics["dictionary/explained_variance"] for c in found.controls}
    assert beside["pca", 2] == pytest.approx(stored.points[0].metrics["dictionary/explained_variance"])
