"""The two tables of a study's database: what raters did, and who opened the key. Rows are only ever added."""

from sqlalchemy import DDL, Double, Integer, String, UniqueConstraint, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of both tables."""


class Event(Base):
    """A rating, or the taking back of one. What counts now is found by replaying them.

    A showing is rated in attempts: 0, and one more after each time it was taken back. That each attempt stands here
    once is what makes a double click, a second tab or a request sent again one rating.
    """

    __tablename__ = "unweave_rating_events"
    __table_args__ = (UniqueConstraint("study", "rater", "number", "attempt", "kind"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    study: Mapped[str] = mapped_column(String(16), index=True)
    rater: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    "place in the rater's own order, from 0"
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(8))
    "rating or undo"
    item: Mapped[str] = mapped_column(String(64))
    repeat: Mapped[bool]
    value: Mapped[int | None]
    "1 to 7; none in an undo"
    shown_at: Mapped[float | None] = mapped_column(Double)
    "unix seconds; none where the server was started anew in between, and in an undo"
    at: Mapped[float] = mapped_column(Double)
    "when it was stored, unix seconds"
    milliseconds: Mapped[int | None]
    "from showing to rating"
    takes_back: Mapped[int | None]
    "of an undo: id of the rating"


class Opening(Base):
    """One opening of the key."""

    __tablename__ = "unweave_rating_openings"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    study: Mapped[str] = mapped_column(String(16), index=True)
    at: Mapped[float] = mapped_column(Double)
    present: Mapped[int]
    planned: Mapped[int]
    early: Mapped[bool]


def _refuse_changes() -> None:
    """Have the database itself refuse to change or remove rows."""
    for table in (Event.__table__, Opening.__table__):
        name = table.name  # type: ignore[attr-defined]
        for verb in ("UPDATE", "DELETE"):
            sqlite = DDL(  # type: ignore[no-untyped-call]
                f"CREATE TRIGGER {name}_no_{verb.lower()} BEFORE {verb} ON {name} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {name} are only ever added'); END"
            )
            event.listen(table, "after_create", sqlite.execute_if(dialect="sqlite"))
        function = DDL(  # type: ignore[no-untyped-call]
            f"CREATE OR REPLACE FUNCTION {name}_only_added() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN RAISE EXCEPTION 'rows of {name} are only ever added'; END $$"
        )
        trigger = DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER {name}_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_only_added()"
        )
        for statement in (function, trigger):
            event.listen(table, "after_create", statement.execute_if(dialect="postgresql"))


_refuse_changes()
