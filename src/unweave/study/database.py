"""Ratings in a database: SQLite in the study's folder, or any other that SQLAlchemy knows by URL."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from unweave.core.errors import InputError, StoreError
from unweave.core.optional import needs
from unweave.study.ratings import HIGHEST, LOWEST, Rating, Unsealing
from unweave.study.tables import Base, Event, Opening

_BUSY_MILLISECONDS = 10_000


@dataclass(frozen=True)
class Done:
    """What one rater has done: the value of each showing that is rated, and how often each was ever rated."""

    values: dict[int, int]
    attempts: dict[int, int]
    last: int | None
    "the showing rated last, which can be taken back"

    @property
    def next(self) -> int:
        """The first showing that is not rated."""
        return next(number for number in range(len(self.values) + 1) if number not in self.values)


class Database:
    """The ratings of one study.

    Args:
        url: where; tables are made when they are not there.
        study: fingerprint of the study: several may share a database.

    Raises:
        InputError: no such kind of database, its driver is not installed, or it cannot be reached.
    """

    def __init__(self, url: str, study: str) -> None:
        self.study = study
        parsed = _parsed(url)
        self.shown = parsed.render_as_string(hide_password=True)
        try:
            self._engine = _engine(parsed)
            self._make_tables()
        except SQLAlchemyError as error:
            raise self._unusable(error) from None
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)  # rows are read after it

    def _make_tables(self) -> None:
        for _ in range(len(Base.metadata.tables)):
            with suppress(SQLAlchemyError):  # another process may make one between the look and the making
                return Base.metadata.create_all(self._engine)
        return Base.metadata.create_all(self._engine)

    def _unusable(self, error: SQLAlchemyError) -> StoreError:
        return StoreError(
            f"the database {self.shown} cannot be used: {_first_line(error)}; see to its disk or server, start again "
            "(what was stored is kept)"
        )

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """What happens inside is stored when the block ends, or not at all.

        Raises:
            StoreError: the database cannot be reached, is damaged, or has no room.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._unusable(error) from None

    def rate(
        self,
        rater: str,
        number: int,
        attempt: int,
        *,
        item: str,
        repeat: bool,
        value: int,
        at: float,
        shown_at: float | None = None,
    ) -> bool:
        """Store a rating; on the disk when this returns.

        Returns:
            Whether this call stored it; False where this attempt is stored already, with whatever value.
        """
        assert LOWEST <= value <= HIGHEST, value
        milliseconds = None if shown_at is None else max(0, round(1000 * (at - shown_at)))
        row = Event(
            study=self.study,
            rater=rater,
            number=number,
            attempt=attempt,
            kind="rating",
            item=item,
            repeat=repeat,
            value=value,
            shown_at=shown_at,
            at=at,
            milliseconds=milliseconds,
        )
        return self._added(row)

    def undo(self, rater: str, number: int, attempt: int, *, at: float) -> bool:
        """Take a rating back, by a row that names it.

        Returns:
            Whether this call did; False where there is no such rating, or it is taken back already.
        """
        with self._session() as session:
            rating = session.scalars(
                select(Event).filter_by(study=self.study, rater=rater, number=number, attempt=attempt, kind="rating")
            ).one_or_none()
        if rating is None:
            return False
        row = Event(
            study=self.study,
            rater=rater,
            number=number,
            attempt=attempt,
            kind="undo",
            item=rating.item,
            repeat=rating.repeat,
            at=at,
            takes_back=rating.id,
        )
        return self._added(row)

    def _added(self, row: Event) -> bool:
        try:
            with self._session() as session:
                session.add(row)
        except IntegrityError:
            return False
        return True

    def done(self, rater: str) -> Done:
        """What a rater has done so far."""
        rows = self.events(rater)
        attempts: dict[int, int] = {}
        for row in rows:
            if row.kind == "rating":
                attempts[row.number] = max(attempts.get(row.number, 0), row.attempt + 1)
        kept = _replayed(rows)
        values = {row.number: row.value for row in kept if row.value is not None}
        return Done(values, attempts, kept[-1].number if kept else None)

    def events(self, rater: str | None = None) -> Sequence[Event]:
        """Everything that was done, in order, also what was taken back."""
        query = select(Event).filter_by(study=self.study).order_by(Event.id)
        if rater is not None:
            query = query.filter_by(rater=rater)
        with self._session() as session:
            return session.scalars(query).all()

    def ratings(self) -> list[Rating]:
        """What counts, in the order in which it came."""
        return [
            Rating(
                rater=row.rater,
                item=row.item,
                value=row.value,
                repeat=row.repeat,
                rated_at=row.at,
                seconds=float("nan") if row.milliseconds is None else row.milliseconds / 1000,
            )
            for row in _replayed(self.events())
            if row.value is not None
        ]

    def record(self, unsealing: Unsealing) -> None:
        """Note for good that the key was opened."""
        with self._session() as session:
            session.add(
                Opening(
                    study=self.study,
                    at=unsealing.at,
                    present=unsealing.present,
                    planned=unsealing.planned,
                    early=unsealing.early,
                )
            )

    def unsealings(self) -> list[Unsealing]:
        """Every opening of the key, in order."""
        with self._session() as session:
            rows = session.scalars(select(Opening).filter_by(study=self.study).order_by(Opening.id)).all()
        return [Unsealing(at=row.at, present=row.present, planned=row.planned, early=row.early) for row in rows]

    def close(self) -> None:
        """Let go of its connections."""
        self._engine.dispose()


def _replayed(events: Sequence[Event]) -> list[Event]:
    """Ratings that were not taken back."""
    taken_back = {row.takes_back for row in events if row.kind == "undo"}
    return [row for row in events if row.kind == "rating" and row.id not in taken_back]


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InputError(
            f"--database {url!r} is no URL of a database; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        needs("psycopg", extra="postgres", what="a study with ratings in Postgres")
    return parsed


def _engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True)  # a server may have been started anew in between
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(f"there is no driver for --database {url.drivername}://…: {error}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepared)
    return engine


def _prepared(connection: sqlite3.Connection, _record: Any) -> None:
    """Readers beside a writer, writers that wait for each other, and rows that are on the disk once committed."""
    for setting in (f"busy_timeout = {_BUSY_MILLISECONDS}", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
