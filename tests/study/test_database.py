"""Ratings in SQLite and in Postgres: stored once, never lost, never changed."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from unweave.core.errors import InputError
from unweave.study.database import Database
from unweave.study.ratings import Unsealing

_names = (f"study-{number}" for number in itertools.count())


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where each kind of database is."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/ratings.sqlite"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The ratings of a study of its own."""
    made = Database(url, next(_names))
    yield made
    made.close()


def rate(database: Database, number: int, value: int = 4, *, attempt: int = 0, rater: str = "a", **more: Any) -> bool:
    """Store a rating of the item of the same number."""
    given = {"item": f"item-{number}", "repeat": False, "at": time.time()} | more
    return database.rate(rater, number, attempt, value=value, **given)


def test_a_rating_comes_back_as_it_was(database: Database) -> None:
    assert rate(database, 0, 6, at=1000.25, shown_at=997.0, repeat=True)
    assert rate(database, 1, 2, at=1001.0)
    one, two = database.ratings()
    assert (one.rater, one.item, one.value, one.repeat, one.rated_at, one.seconds) == (
        "a",
        "item-0",
        6,
        True,
        1000.25,
        3.25,
    )
    assert two.seconds != two.seconds, "a showing that nobody noted has no length"


def test_the_same_attempt_is_stored_once(database: Database) -> None:
    assert rate(database, 0, 5)
    assert not rate(database, 0, 5)
    assert not rate(database, 0, 1), "the first answer stays"
    assert [rating.value for rating in database.ratings()] == [5]
    assert rate(database, 0, 3, rater="b"), "raters do not get in each other's way"


def test_taking_back_is_a_row_of_its_own(database: Database) -> None:
    rate(database, 0, 5)
    rate(database, 1, 7)
    assert database.undo("a", 1, 0, at=time.time())
    assert not database.undo("a", 1, 0, at=time.time()), "once is enough"
    assert not database.undo("a", 2, 0, at=time.time()), "there is nothing to take back"
    done = database.done("a")
    assert (done.values, done.next, done.last, done.attempts) == ({0: 5}, 1, 0, {0: 1, 1: 1})
    assert not rate(database, 1, 7), "an old request sent again changes nothing"
    assert rate(database, 1, 2, attempt=1)
    assert [rating.value for rating in database.ratings()] == [5, 2]
    rows = database.events("a")
    assert [row.kind for row in rows] == ["rating", "rating", "undo", "rating"]
    assert rows[2].takes_back == rows[1].id
    assert rows[2].value is None


def test_rows_cannot_be_changed_or_removed(database: Database, url: str) -> None:
    rate(database, 0, 5)
    database.record(Unsealing(at=1.0, present=1, planned=2, early=True))
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    for table in ("unweave_rating_events", "unweave_rating_openings"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET at = 0"):
            with pytest.raises(SQLAlchemyError, match="only ever added"), engine.begin() as connection:
                connection.execute(sqlalchemy.text(statement))
    engine.dispose()
    assert [rating.value for rating in database.ratings()] == [5]
    assert database.unsealings() == [Unsealing(at=1.0, present=1, planned=2, early=True)]


def test_of_many_requests_at_once_one_is_stored(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda value: rate(database, 0, 1 + value % 7), range(24)))
    assert sum(stored) == 1
    assert len(database.events()) == 1
    with ThreadPoolExecutor(8) as pool:
        undone = list(pool.map(lambda _: database.undo("a", 0, 0, at=time.time()), range(24)))
    assert sum(undone) == 1
    assert not database.ratings()


def test_raters_at_the_same_time_lose_nothing(url: str) -> None:
    name = next(_names)

    def one_rater(rater: str) -> list[bool]:
        own = Database(url, name)  # a connection pool each, as two servers would have
        try:
            return [rate(own, number, 1 + number % 7, rater=rater) for number in range(25)]
        finally:
            own.close()

    Database(url, name).close()
    with ThreadPoolExecutor(4) as pool:
        assert all(itertools.chain(*pool.map(one_rater, "abcd")))
    database = Database(url, name)
    assert len(database.ratings()) == 100
    for rater in "abcd":
        assert database.done(rater).values == {number: 1 + number % 7 for number in range(25)}
    database.close()


def test_studies_share_a_database_and_not_their_ratings(url: str) -> None:
    one, other = Database(url, next(_names)), Database(url, next(_names))
    rate(one, 0)
    one.record(Unsealing(at=1.0, present=1, planned=1, early=False))
    assert len(one.ratings()) == 1
    assert not other.ratings()
    assert not other.unsealings()
    assert rate(other, 0)
    one.close()
    other.close()


actions = st.lists(st.one_of(st.integers(1, 7), st.just("undo"), st.just("again")), max_size=25)


@settings(max_examples=15)
@given(actions)
def test_replaying_gives_what_a_list_would_hold(
    tmp_path_factory: pytest.TempPathFactory, done: list[int | str]
) -> None:
    """Against the simplest model there is: rate appends, undo pops, a request sent again does nothing."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('replay')}/r.sqlite", "s")
    model: list[int] = []
    sent: tuple[int, int] | None = None
    for action in done:
        now = database.done("a")
        if action == "again":
            if sent is not None:
                assert not rate(database, sent[0], 1, attempt=sent[1])
        elif action == "undo":
            if now.last is not None:
                assert database.undo("a", now.last, now.attempts[now.last] - 1, at=time.time())
            model = model[:-1]
        else:
            sent = (now.next, now.attempts.get(now.next, 0))
            assert rate(database, sent[0], int(action), attempt=sent[1])
            model.append(int(action))
        assert database.done("a").values == dict(enumerate(model))
    assert [rating.value for rating in database.ratings()] == model
    database.close()


def test_a_gap_is_rated_first(database: Database) -> None:
    """An undo and a rating that cross on the way, from two windows, leave a gap: it is shown again, not skipped."""
    rate(database, 0)
    rate(database, 1)
    database.undo("a", 0, 0, at=time.time())
    done = database.done("a")
    assert (done.next, done.attempts[0], done.values) == (0, 1, {1: 4})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nothing", "is no URL of a database"),
        ("klingon://host/name", "there is no driver for --database klingon"),
        ("sqlite:////does/not/exist/ratings.sqlite", "unable to open database file"),
        ("postgresql://rater:secret@127.0.0.1:1/name", "cannot be used: connection failed"),
    ],
)
def test_a_database_that_cannot_be_is_named(wrong: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Database(wrong, "study")
    assert "secret" not in str(error.value)


def test_sqlite_writes_through(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/r.sqlite", "s")
    with database._engine.connect() as connection:
        read = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
    assert read == {"journal_mode": "wal", "synchronous": 2}
    database.close()
