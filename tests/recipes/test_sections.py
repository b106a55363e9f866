"""What a recipe puts on its page."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from unweave.core.errors import InputError
from unweave.recipes.base import Run, carry_out
from unweave.recipes.sections import table
from unweave.report import build_report


def _figure() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def _told(folder: Path) -> Path:
    def work(run: Run) -> None:
        run.section("First <things>", "What it is about.")
        run.table(["", "ours", "null"], [["score", "0.5", "0.1"]], note="On nothing.", main=1)
        run.show("lines", _figure(), "A line & its caption.")
        run.section("Second")
        run.findings.append("It is so.")

    carry_out(Run(folder, 0), {"recipe": "nameless", "config": {}, "seed": 0}, work)
    return build_report(folder)


def test_sections_tables_and_figures_come_in_order_and_escaped(tmp_path: Path) -> None:
    page = _told(tmp_path / "run").read_text()
    parts = ["It is so.", "First &lt;things&gt;", "What it is about.", "score", "On nothing.", '<figure id="lines">']
    places = [page.index(part) for part in [*parts, "A line &amp; its caption.", "Second"]]
    assert places == sorted(places)
    assert '<td class="main">0.5</td>' in page


def test_figures_lie_beside_the_page(tmp_path: Path) -> None:
    folder = _told(tmp_path / "run").parent
    assert {path.name for path in (folder / "figures").iterdir()} == {"lines.png", "lines.svg"}


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="2 columns has a row of 3 cells"):
        table(["a", "b"], [["1", "2", "3"]])
