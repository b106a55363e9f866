"""The page of a sweep."""

import json
import re
from pathlib import Path

import pytest

from unweave.core.errors import StoreError
from unweave.recipes.base import RUN
from unweave.recipes.sweep_result import Control, Point, Sweep
from unweave.report import build_report
from unweave.report.sweep import every_table, settings_table


def point(k: int, seed: int, explained: float, **more: str) -> Point:
    metrics = {"dictionary/l0": float(k), "dictionary/explained_variance": explained, "dictionary/live": 60.0}
    metrics |= {"dictionary/dead": 4.0, "dictionary/d_sae": 64.0, "dictionary/rows": 1234.0}
    name = f"k={k},seed={seed}"
    return Point(name=name, kind="topk", options={"k": k}, seed=seed, metrics={} if more else metrics, **more)


def sweep() -> Sweep:
    points = [point(4, 0, 0.90), point(4, 1, 0.92), point(8, 0, 0.95), point(8, 1, 0.0, error="<b>broke</b>")]
    controls = [
        Control(condition=name, k=k, metrics={"dictionary/explained_variance": 0.1 * k})
        for name in ("neurons", "pca")
        for k in (4, 8)
    ]
    return Sweep(points, controls, "held-out rows")


def test_settings_are_worded_with_deviation_and_controls() -> None:
    table = settings_table(sweep(), ["neurons", "pca"])
    assert table.headings == ["setting", "seeds", "L0", "explained variance", "live", "dead", "neurons", "pca"]
    assert table.rows == [
        ["k=4", "2", "4.0 ± 0.0", "91.00 ± 1.41 %", "60 ± 0", "4 ± 0", "40.0 %", "40.0 %"],
        ["k=8", "1 (1 failed)", "8.0", "95.00 %", "60", "4", "80.0 %", "80.0 %"],
    ]


def test_every_dictionary_is_listed_and_what_went_wrong() -> None:
    table = every_table(sweep())
    assert table.rows[0] == ["k=4,seed=0", "4.00", "0.9000", "60", "4", ""]
    assert table.rows[3] == ["k=8,seed=1", "–", "–", "–", "–", "<b>broke</b>"]
    assert every_table(Sweep([point(4, 0, 0.9)], [], "")).headings[-1] == "dead"


def test_a_folder_of_a_sweep_becomes_a_page(tmp_path: Path) -> None:
    sweep().save(tmp_path)
    page = build_report(tmp_path)
    assert page == tmp_path / "report.html"
    text = page.read_text()
    assert "91.00 ± 1.41 %" in text
    assert "1,234 held-out rows" in text
    assert "&lt;b&gt;broke&lt;/b&gt;" in text
    assert "<svg" in text
    assert not re.search(r"(src|href)=\"https?:", text), "it opens offline"
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"pareto.png", "pareto.svg"}
    again = page.read_bytes()
    assert build_report(tmp_path).read_bytes() == again


def test_a_sweep_that_has_not_ended_has_no_page(tmp_path: Path) -> None:
    sweep().save(tmp_path)
    (tmp_path / RUN).write_text(json.dumps({"status": "running"}))
    with pytest.raises(StoreError, match="has not ended"):
        build_report(tmp_path)
