"""The benchmark of planted dictionaries: who takes part, how penalties are tuned, what is counted; one small run."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from unweave.core.errors import InputError, StoreError
from unweave.core.progress import silenced
from unweave.core.runtime import Runtime
from unweave.datasets.planted import Planted
from unweave.datasets.rows import KnownRows
from unweave.datasets.waves import Waves
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.random_directions import RandomDirections
from unweave.recipes.base import METRICS, RECIPES, Run, execute
from unweave.recipes.recovery import QUICK, Recovery
from unweave.recipes.recovery.page import findings
from unweave.recipes.recovery.scores import (
    CODES,
    CSV,
    DEAD,
    EXPLAINED,
    L0,
    MCC,
    PARQUET,
    PRECISION,
    RECALL,
    SCORES,
    WIDTH,
    Score,
    load_scores,
    measure,
    save_scores,
    summaries,
)
from unweave.recipes.recovery.setup import (
    ANY,
    NON_NEGATIVE,
    Entry,
    Sizes,
    Tried,
    chosen,
    entry,
    needs_non_negative,
    next_value,
    penalty,
    settle,
    tune,
)
from unweave.report import build_report
from unweave.stats.spread import Spread
from unweave.train import Training

SIZES = Sizes(d_in=8, d_sae=12, l0=2.4, fit_rows=100)
SMALL = replace(
    QUICK,
    data=Planted(n=1500, d_in=10, n_features=15, l0=2, exponent=0, noise=0.02),
    kinds=("topk", "relu", "nmf", "pca", "random"),
    test_rows=500,
    training=Training(steps=250, batch_size=128, learning_rate=2e-2),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five kinds under two seeds; no test may change its folder."""
    with silenced():
        return execute("recovery", SMALL, out=tmp_path_factory.mktemp("recovery") / "run")


@pytest.mark.parametrize("kind", DictionaryConfig.registry.members())
def test_every_kind_of_the_registry_takes_part(kind: str) -> None:
    one = entry(kind, SIZES)
    assert one.config is not None, one.reason
    options = dataclasses.asdict(one.config)
    for name, value in {"d_sae": 12, "k": 2, "target": 2.4, "fit_rows": 100}.items():
        assert options.get(name, value) == value
    tuned = penalty(one.config)
    assert ("k" in options or "target" in options or tuned is not None) or kind == "kmeans"
    if tuned is not None:
        assert dataclasses.replace(one.config, **{tuned[0]: tuned[1][0]}) is not None  # type: ignore[arg-type]


def test_a_kind_that_cannot_be_configured_says_why() -> None:
    assert entry("topk", replace(SIZES, d_sae=0)).config is None
    one = entry("topk", replace(SIZES, d_in=0))
    assert "at least one input" in one.reason
    with pytest.raises(InputError, match="no dictionary 'topkk'"):
        entry("topkk", SIZES)


def test_nmf_alone_needs_rows_without_negative_entries() -> None:
    need = [kind for kind in DictionaryConfig.registry.members() if needs_non_negative(entry(kind, SIZES).config, 8)]  # type: ignore[arg-type]
    assert need == ["nmf"]


def test_the_next_value_lies_between_or_beyond() -> None:
    # L0 falls from 16 to 4 while the value rises from 1 to 9: 8 lies half-way on both logarithmic scales.
    assert next_value([(1, 16), (9, 4)], 8) == pytest.approx(3)
    assert next_value([(9, 4), (1, 16)], 2) == pytest.approx(27)
    assert next_value([(9, 4), (1, 16)], 32) == pytest.approx(1 / 3)
    assert next_value([(9, 16), (1, 4)], 2) == pytest.approx(1 / 3)  # an option that works the other way
    assert next_value([(2, 0), (1, 16)], 4) > 1
    assert next_value([(2, 16)], 4) == pytest.approx(6)


def test_the_value_nearest_in_ratio_is_chosen() -> None:
    tried = [Tried(kind="relu", option="l1", value=v, l0=l0) for v, l0 in ((1.0, 8.0), (2.0, 3.0), (3.0, 0.0))]
    best = chosen(tried, "relu", 4)
    assert best is not None
    assert best.value == 2
    assert chosen(tried, "gelu", 4) is None
    relu, gelu, topk = settle([entry(kind, SIZES) for kind in ("relu", "gelu", "topk")], tried, 4)
    assert (relu.tuned, relu.config.l1) == ("l1=2", 2)  # type: ignore[union-attr]
    assert gelu.config is None
    assert "failed" in gelu.reason
    assert topk == entry("topk", SIZES)


def test_tuning_looks_at_training_rows_only_and_stops_where_nothing_is_new() -> None:
    rows = Planted(n=400, d_in=8, n_features=12, l0=2, exponent=0).make(seed=0).rows
    seen: list[Dictionary] = []
    entries = [entry("relu", SIZES), entry("topk", SIZES)]
    with silenced():
        tried = tune(
            entries, rows, 2.4, Training(steps=30, batch_size=64), rounds=2, seed=0, runtime=Runtime(threads=1),
            also=lambda one: seen.append(one) or {"x": 1.0},  # type: ignore[func-returns-value]
        )  # fmt: skip
    assert {one.kind for one in tried} == {"relu"}
    assert [one.value for one in tried[:3]] == [3.0, 1.0, 0.3]
    assert 4 <= len(tried) == len(seen) <= 5
    assert all(one.metrics == {"x": 1.0} for one in tried)


def test_measures_by_hand() -> None:
    made = KnownRows(
        rows=torch.tensor([[2.0, 0], [0, 4], [0, 0]]),
        sources=torch.tensor([[2.0, 0], [0, 4], [0, 0]]),
        directions=torch.eye(2),
    )
    dictionary = RandomDirections(d_sae=3).build(2)
    assert isinstance(dictionary.V, torch.Tensor)
    dictionary.V.copy_(torch.tensor([[1.0, 0], [0.6, 0.8], [0, -1]]))
    found = measure(dictionary, made)
    # Codes: (2, 1.2, 0), (0, 3.2, 0), (0, 0, 0): the third latent never fires.
    assert found[L0] == pytest.approx(1)
    assert found[DEAD] == 1
    assert found[WIDTH] == 3
    assert found[MCC] == pytest.approx((1 + 0.8) / 2)
    assert found[RECALL] == found[PRECISION] == 0.5
    r = np.corrcoef([0, 4, 0], [1.2, 3.2, 0])[0, 1]
    assert found[CODES] == pytest.approx((1 + r) / 2)
    # Reconstructions (2.72, 0.96), (1.92, 2.56), 0; the variance is that about the mean (2/3, 4/3).
    error = 0.72**2 + 0.96**2 + 1.92**2 + 1.44**2
    assert found[EXPLAINED] == pytest.approx(1 - error / (20 - 4 / 3 - 16 / 3))


def test_intervals_are_students() -> None:
    # t(0.975, 2) = 4.3027; the standard deviation of 1, 2, 3 is 1.
    spread = Spread.of([1, 2, 3])
    assert (spread.mean, spread.high) == pytest.approx((2, 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    assert spread.high - spread.mean == pytest.approx(spread.mean - spread.low)
    assert math.isnan(Spread.of([1]).low)


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    scores = [
        Score(kind="topk", rows=ANY, seed=0, metrics={MCC: 0.5, PRECISION: math.nan}, tuned="k=1"),
        Score(kind="nmf", rows=ANY, seed=0, error="no", trained=False),
    ]
    save_scores(tmp_path, scores)
    back = load_scores(tmp_path)
    assert math.isnan(back[0].metrics.pop(PRECISION))
    assert back[0] == replace(scores[0], metrics={MCC: 0.5})
    assert back[1] == scores[1]
    (tmp_path / SCORES).write_text('{"scores": [{"kind": 3}]}')
    with pytest.raises(StoreError, match="does not hold scores"):
        load_scores(tmp_path)


def score(kind: str, values: list[float], *, rows: str = ANY, explained: float = 0.5, l0: float = 4.0) -> list[Score]:
    names = (RECALL, PRECISION, CODES)
    return [
        Score(
            kind=kind,
            rows=rows,
            seed=seed,
            metrics={MCC: value, **dict.fromkeys(names, value), EXPLAINED: explained, L0: l0, DEAD: 0.0, WIDTH: 8.0},
        )
        for seed, value in enumerate(values)
    ]


def test_kinds_come_by_rows_then_by_what_they_found_and_the_absent_last() -> None:
    broken = [Score(kind="broken", rows=ANY, seed=0, error="why")]
    found = summaries(
        [*score("a", [0.3, 0.4]), *broken, *score("b", [0.8, 0.9]), *score("n", [1.0], rows=NON_NEGATIVE)]
    )
    assert [one.kind for one in found] == ["b", "a", "broken", "n"]
    assert found[1].mean(MCC) == pytest.approx(0.35)
    assert found[2].errors == ("why",)


def test_findings_say_what_the_numbers_allow() -> None:
    scores = [
        *score("best", [0.90, 0.95, 0.92], l0=4.1),
        *score("close", [0.91, 0.94, 0.90]),
        *score("worse", [0.80, 0.85, 0.82], explained=0.9, l0=9.0),
        *score("random", [0.3, 0.3, 0.3], explained=0.1),
        Score(kind="absent", rows=ANY, seed=0, error="no rows for it"),
    ]
    tried = [Tried(kind="worse", option="l1", value=0.5, l0=12.0, metrics={MCC: 0.97, EXPLAINED: 0.9})]
    said = " ".join(findings(summaries(scores), tried, 4.0))
    assert "best finds most: MCC 0.923" in said
    assert "cannot be told apart from it (t-interval of the difference, seed by seed): close." in said
    assert "Random directions have an MCC of 0.300" in said
    assert "worse explains most (90.0 %" in said
    assert "not quite comparable: worse 9.0" in said
    assert "worse 0.970 at L0 12.0 (l1=0.5)" in said
    assert "absent (no rows for it)" in said
    alone = " ".join(findings(summaries(score("one", [0.5])), [], 4.0))
    assert "One seed says nothing" in alone
    assert findings(summaries([Score(kind="x", rows=ANY, seed=0, error="e")]), [], 4.0)[0].startswith("No dictionary")


def test_a_planted_dictionary_is_found_and_controls_do_not(small: Run) -> None:
    m = small.metrics
    # Six means of two seeds lay between 0.86 and 0.92, recall between 0.70 and 0.83: with no latent to spare, some
    # directions share one. Random directions had 0.45 and 0.49, PCA 0.55 and 0.56.
    assert m["recovery/mcc@topk"] > 0.8
    assert m["recovery/recall@topk"] > 0.6
    for control in ("random", "pca"):
        assert m[f"recovery/mcc@{control}"] < 0.62
        assert m[f"recovery/recall@{control}"] < 0.1
    assert m["recovery/mcc@nmf,non-negative"] > m["recovery/mcc@random,non-negative"]
    assert "recovery/mcc@nmf" not in m
    assert m["dictionary/l0@topk"] <= 2
    assert m["data/l0"] == pytest.approx(2, abs=0.1)
    assert m["recovery/mcc_low@topk"] <= m["recovery/mcc@topk"] <= m["recovery/mcc_high@topk"]
    assert json.loads((small.folder / METRICS).read_text()).keys() == m.keys()


def test_tables_and_page_are_there(small: Run) -> None:
    table = pq.read_table(small.folder / PARQUET)
    # topk, relu, pca and random on the usual rows; nmf, pca and random on non-negative ones; two seeds.
    assert table.num_rows == 14
    assert {"kind", "rows", "seed", "tuned", "mcc", "recall", "precision", "explained_variance", "l0", "dead"} <= set(
        table.column_names
    )
    assert (small.folder / CSV).read_text().count("\n") == 15
    page = build_report(small.folder).read_text()
    for words in ("Who finds the planted directions?", "How penalties were tuned", "relu (l1=", "non-negative"):
        assert words in page


def test_a_finished_run_is_read_back(small: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in (small.folder / "artifacts").rglob("*")}
    with silenced():
        again = execute("recovery", SMALL, out=small.folder)
    assert again.metrics == small.metrics
    assert again.findings == small.findings
    assert {path: path.stat().st_mtime_ns for path in (small.folder / "artifacts").rglob("*")} == before


def test_rows_that_cannot_be_made_non_negative_leave_the_kind_out_and_say_so(tmp_path: Path) -> None:
    config = replace(SMALL, data=Waves(n=200, mixing=((1.0, -0.4), (0.6, 1.0))), kinds=("nmf", "pca"), seeds=1)
    with silenced():
        run = execute("recovery", config, out=tmp_path / "run")
    assert "Left out: nmf (takes only rows without negative entries)." in run.findings
    assert "recovery/mcc@pca" in run.metrics


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"seeds": 0}, {"test_rows": 0}, {"tuning": -1}, {"width": 0.0}, {"l0": 0.0}):
        with pytest.raises(InputError):
            Recovery(**wrong)  # type: ignore[arg-type]
    assert Entry(kind="nmf", rows=NON_NEGATIVE).name == "nmf,non-negative"


@pytest.mark.slow
def test_the_default_preset(tmp_path: Path) -> None:
    with silenced():
        m = execute("recovery", RECIPES["recovery"].preset("default"), out=tmp_path / "run").metrics
    for kind in ("topk", "batch-topk", "jumprelu"):
        assert m[f"recovery/mcc@{kind}"] > 0.88
    for control in ("random", "neurons", "pca"):
        assert 0.25 < m[f"recovery/mcc@{control}"] < 0.36
        assert m[f"recovery/recall@{control}"] < 0.03
