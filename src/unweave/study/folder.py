"""A study on disk: its plan and grids, its sealed key, and the ratings beside them."""

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unweave.core.config import from_json
from unweave.core.errors import InputError
from unweave.core.optional import needs
from unweave.store.artifact import read_json, read_manifest
from unweave.study.order import Showing, showings
from unweave.study.plan import Plan
from unweave.study.ratings import Rating, Unsealing
from unweave.study.seal import KeyEntry, opened

if TYPE_CHECKING:
    from unweave.study.database import Database

KIND = "study"
PLAN = "plan.json"
KEY = "key.sealed"
GRIDS = "grids"
RATINGS = "ratings.sqlite"


class Study:
    """A blind rating study.

    Args:
        folder: where it lies.
        database: URL of the database with the ratings; by default `ratings.sqlite` in the folder.

    Raises:
        StoreError: the folder holds no whole study.
    """

    def __init__(self, folder: str | Path, database: str | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, KIND, verify=True)
        self.plan: Plan = from_json(Plan, read_json(self.folder / PLAN), where=str(self.folder / PLAN))
        self.url = database or f"sqlite:///{(self.folder / RATINGS).absolute()}"

    @cached_property
    def database(self) -> "Database":
        """Where ratings go.

        Raises:
            InputError: SQLAlchemy or the database's driver is not installed, or the database cannot be reached.
        """
        needs("sqlalchemy", extra="study", what="a rating study")
        from unweave.study.database import Database  # noqa: PLC0415 - comes with an extra

        return Database(self.url, self.plan.study)

    def order(self, rater: str) -> list[Showing]:
        """What a rater is shown, in order.

        Raises:
            InputError: there is no such rater.
        """
        if rater not in self.plan.raters:
            raise InputError(f"the study has no rater {rater!r}, only {', '.join(self.plan.raters)}")
        return showings(self.plan.items, self.plan.repeats, seed=self.plan.order_seed, rater=rater)

    def grid(self, item: str) -> bytes:
        """The PNG of an item."""
        if item not in self.plan.items:
            raise InputError(f"the study has no item {item!r}")
        return (self.folder / GRIDS / f"{item}.png").read_bytes()

    def ratings(self) -> list[Rating]:
        """All ratings that count, in the order in which they came."""
        return self.database.ratings()

    def unsealings(self) -> list[Unsealing]:
        """Every opening of the key so far."""
        return self.database.unsealings()

    def unseal(self, *, early: bool = False) -> dict[str, KeyEntry]:
        """What each item is. The opening is recorded for good.

        Args:
            early: open it though ratings are missing.

        Raises:
            InputError: fewer ratings are in than the plan asks for, and `early` is not set.
            StoreError: the key is not the one that the plan committed to.
        """
        present, enough = len(self.ratings()), self.plan.enough
        if present < enough and not early:
            raise InputError(
                f"{self.folder} has {present} of the {enough} ratings that its plan asks for before the key is opened. "
                "Wait for them, give --database where they lie elsewhere, or open it early, which is recorded"
            )
        key = opened((self.folder / KEY).read_bytes(), self.plan.commitment)
        self.database.record(
            Unsealing(at=time.time(), present=present, planned=self.plan.planned, early=present < enough)
        )
        return key

    def __repr__(self) -> str:
        return f"Study({len(self.plan.items)} items, {len(self.plan.raters)} raters, {str(self.folder)!r})"
