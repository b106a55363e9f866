"""What a rater can do, in order and out of it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from unweave.core.errors import StoreError
from unweave.rating.desk import Desk, OutOfTurn, Showing
from unweave.rating.links import LINKS, tokens
from unweave.study import Study

A = "rater-1"


@pytest.fixture
def desk(study: Study) -> Desk:
    """Three raters, ten showings each."""
    return Desk(study)


def test_a_rater_goes_from_grid_to_grid(desk: Desk) -> None:
    for number in range(10):
        place = desk.place(A)
        assert (place.done, place.total, place.current) == (number, 10, Showing(number, 0))
        assert place.pause == (number in {4, 7})
        assert desk.rate(A, Showing(number, 0), 1 + number % 7)
    place = desk.place(A)
    assert (place.done, place.current, place.last, place.pause) == (10, None, Showing(9, 0), False)
    assert [rating.value for rating in desk.study.ratings()] == [1 + number % 7 for number in range(10)]
    assert [rating.item for rating in desk.study.ratings()] == [one.item for one in desk.study.order(A)]
    assert [rating.repeat for rating in desk.study.ratings()] == [one.repeat for one in desk.study.order(A)]


def test_only_the_grid_whose_turn_it_is_can_be_rated(desk: Desk) -> None:
    for showing in (Showing(1, 0), Showing(0, 1), Showing(99, 0)):
        with pytest.raises(OutOfTurn, match="it is the turn of 0"):
            desk.rate(A, showing, 4)
    assert desk.rate(A, Showing(0, 0), 4)
    assert not desk.rate(A, Showing(0, 0), 7), "sent twice, stored once"
    assert [rating.value for rating in desk.study.ratings()] == [4]


def test_taking_back(desk: Desk) -> None:
    desk.rate(A, Showing(0, 0), 4)
    desk.rate(A, Showing(1, 0), 5)
    with pytest.raises(OutOfTurn, match="not the one that was rated last"):
        desk.undo(A, Showing(5, 0))
    assert desk.undo(A, Showing(1, 0))
    assert desk.place(A).current == Showing(1, 1)
    assert not desk.undo(A, Showing(1, 0)), "sent twice"
    assert not desk.rate(A, Showing(1, 0), 5), "a late copy of the first answer does not count"
    assert desk.rate(A, Showing(1, 1), 2)
    assert desk.undo(A, Showing(1, 1))
    assert desk.undo(A, Showing(0, 0)), "further back"
    assert desk.place(A).current == Showing(0, 1)
    assert desk.place(A).last is None


def test_time_is_counted_from_the_last_showing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("unweave.rating.desk.time.time", lambda: clock[0])
    desk.show(A, Showing(0, 0))
    clock[0] = 5000.0  # away for lunch
    desk.show(A, Showing(0, 0))
    clock[0] = 5002.5
    desk.rate(A, Showing(0, 0), 4)
    clock[0] = 5003.0
    desk.rate(A, Showing(1, 0), 4)  # its showing was not noted: the server was started anew
    first, second = desk.study.ratings()
    assert first.seconds == 2.5
    assert second.seconds != second.seconds


def test_pictures_up_to_the_next_one(desk: Desk) -> None:
    order = desk.study.order(A)
    assert desk.grid(A, 0) == desk.study.grid(order[0].item)
    assert desk.grid(A, 1) == desk.study.grid(order[1].item)
    assert desk.grid(A, 2) is None
    assert desk.grid(A, -1) is None
    for number in range(10):
        desk.rate(A, Showing(number, 0), 4)
    assert desk.grid(A, 9) == desk.study.grid(order[9].item)
    assert desk.grid(A, 10) is None


def test_two_windows_at_once_store_one_rating(desk: Desk) -> None:
    def both(value: int) -> bool:
        return desk.rate(A, Showing(0, 0), value)

    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(both, [1, 2, 3, 4, 5, 6, 7] * 3))
    assert sum(stored) == 1
    assert len(desk.study.ratings()) == 1


def test_links_are_secret_and_stay(study: Study) -> None:
    first = tokens(study)
    assert list(first) == study.plan.raters
    assert len(set(first.values())) == 3
    assert min(map(len, first.values())) >= 32
    assert stat.S_IMODE((study.folder / LINKS).stat().st_mode) == 0o600
    assert tokens(Study(study.folder)) == first
    assert not list(study.folder.glob(f".{LINKS}*"))


@pytest.mark.parametrize("damaged", ["{}", '{"rater-1": "a"}', "[]", '{"rater-1": "", "rater-2": "b", "rater-3": 1}'])
def test_damaged_links_are_named(study: Study, damaged: str) -> None:
    (study.folder / LINKS).write_text(damaged)
    with pytest.raises(StoreError, match="raters get new links"):
        tokens(study)


def test_a_token_is_one_raters(desk: Desk, study: Study) -> None:
    links = tokens(study)
    assert desk.rater(links["rater-2"]) == "rater-2"
    assert desk.rater(links["rater-2"][:-1]) is None
    assert desk.rater("") is None
    assert desk.links("http://x")["rater-2"] == f"http://x/r/{links['rater-2']}"


def test_raters_stand_where_they_stand(desk: Desk) -> None:
    desk.rate("rater-2", Showing(0, 0), 3)
    assert desk.place(A) == replace(desk.place("rater-3"))
    assert desk.place("rater-2").done == 1
