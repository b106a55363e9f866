"""The table's filters and orders."""

import numpy as np
import pytest

from unweave.app.latents import COLOURINGS, Query, chosen, colour_values, colourings
from unweave.app.notes import Note
from unweave.app.opened import Library, OpenAtlas
from unweave.core.errors import InputError


@pytest.fixture
def opened(library: Library, run_name: str) -> OpenAtlas:
    return library.run(run_name).atlas()


def test_without_a_filter_all_come_most_telling_first(opened: OpenAtlas) -> None:
    found = chosen(opened, Query())
    assert sorted(found) == list(range(24))
    assert (np.diff(opened.columns["mutual_information"][found]) <= 0).all()


@pytest.mark.parametrize("column", ["latent", "status", "rate", "max", "q", "top_class", "average_precision"])
def test_every_column_sorts_both_ways(opened: OpenAtlas, column: str) -> None:
    values = opened.columns[column]
    up = values[chosen(opened, Query(sort=column, descending=False))]
    down = values[chosen(opened, Query(sort=column))]
    assert list(up) == sorted(values)
    assert list(down) == sorted(values, reverse=True)


def test_filters(opened: OpenAtlas, class_names: tuple[str, ...]) -> None:
    columns = opened.columns
    assert set(chosen(opened, Query(status="firing"))) == set(np.flatnonzero(columns["count"] > 0))
    assert set(chosen(opened, Query(status="dead"))) == set(np.flatnonzero(columns["count"] == 0))
    of_class = set(chosen(opened, Query(of_class=class_names[1])))
    assert of_class == set(np.flatnonzero((columns["top_class"] == 1) & (columns["count"] > 0)))
    between = set(chosen(opened, Query(least_rate=0.1, most_rate=0.3)))
    assert between == set(np.flatnonzero((columns["rate"] >= 0.1) & (columns["rate"] <= 0.3)))


def test_search_finds_numbers_and_names(opened: OpenAtlas) -> None:
    assert list(chosen(opened, Query(text=" 7 "))) == [7]
    assert not len(chosen(opened, Query(text="99")))
    opened.run.notes.write(opened.role, 5, Note(name="Upper Bars"))
    try:
        assert list(chosen(opened, Query(text="upper"))) == [5]
    finally:
        opened.run.notes.write(opened.role, 5, Note())
    assert not len(chosen(opened, Query(text="upper")))


@pytest.mark.parametrize(
    "query", [Query(sort="colour"), Query(status="alive"), Query(of_class="Zebra")], ids=["column", "status", "class"]
)
def test_what_there_is_not_is_named(opened: OpenAtlas, query: Query) -> None:
    with pytest.raises(InputError, match=r"no (column|status|class)"):
        chosen(opened, query)


def test_colours(opened: OpenAtlas) -> None:
    assert colourings(opened) == list(COLOURINGS)
    assert (colour_values(opened, "frequency") == opened.columns["rate"]).all()
