"""What a rater can do, whoever asks for it: the page and the API both speak to this."""

import math
import time
from dataclasses import dataclass

from unweave.core.errors import InputError
from unweave.rating.links import tokens
from unweave.study import Study


@dataclass(frozen=True)
class Showing:
    """A grid in a rater's order: its number there, and the attempt at rating it (0, or more once it was taken back)."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Place:
    """Where a rater stands.

    Attributes:
        total: grids in all.
        done: how many are rated.
        current: the grid to rate now; none at the end.
        last: the grid rated last, which can be taken back; none at the start.
    """

    total: int
    done: int
    current: Showing | None
    last: Showing | None

    @property
    def pause(self) -> bool:
        """Whether this is a good moment for a break: after each third."""
        return self.done in {math.ceil(self.total * part / 3) for part in (1, 2)} and 0 < self.done < self.total


class OutOfTurn(InputError):  # noqa: N818 - reads as what it is
    """A rating of a grid that is not the one to rate now."""


class Desk:
    """Raters at work on one study.

    Args:
        study: whose grids are kept in memory.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.plan = study.plan
        self._rater = {token: rater for rater, token in tokens(study).items()}
        self._order = {rater: study.order(rater) for rater in self.plan.raters}
        self._grids = {item: study.grid(item) for item in self.plan.items}
        self._shown: dict[str, tuple[Showing, float]] = {}
        self._database = study.database

    def rater(self, token: str) -> str | None:
        """Whose token it is."""
        return self._rater.get(token)

    def links(self, address: str) -> dict[str, str]:
        """Each rater's page."""
        return {rater: f"{address}/r/{token}" for token, rater in self._rater.items()}

    def place(self, rater: str) -> Place:
        """Where a rater stands, replayed from the database."""
        done = self._database.done(rater)
        total = len(self._order[rater])
        return Place(
            total=total,
            done=len(done.values),
            current=Showing(done.next, done.attempts.get(done.next, 0)) if done.next < total else None,
            last=None if done.last is None else Showing(done.last, done.attempts[done.last] - 1),
        )

    def show(self, rater: str, showing: Showing) -> None:
        """Note that the rater sees this grid from now on; the time to the rating is counted from the last such note."""
        self._shown[rater] = (showing, time.time())

    def rate(self, rater: str, showing: Showing, value: int) -> bool:
        """Store a rating; on the disk when this returns.

        Returns:
            Whether this call stored it; False where a rating of this showing is there already, with whatever value.

        Raises:
            OutOfTurn: it is another grid's turn.
        """
        now = time.time()
        current = self.place(rater).current
        if showing != current:
            if self._is_rated(rater, showing):
                return False
            turn = "the study is done" if current is None else f"it is the turn of {current.number}"
            raise OutOfTurn(f"grid {showing.number} (attempt {showing.attempt}) cannot be rated now: {turn}")
        seen, at = self._shown.get(rater, (None, 0.0))
        here = self._order[rater][showing.number]
        return self._database.rate(
            rater,
            showing.number,
            showing.attempt,
            item=here.item,
            repeat=here.repeat,
            value=value,
            at=now,
            shown_at=at if seen == showing else None,
        )

    def undo(self, rater: str, showing: Showing) -> bool:
        """Take back the rating given last.

        Returns:
            Whether this call did; False where it was taken back already.

        Raises:
            OutOfTurn: it is not the last one.
        """
        last = self.place(rater).last
        if showing != last:
            if self._is_rated(rater, showing):
                return False
            raise OutOfTurn(f"grid {showing.number} (attempt {showing.attempt}) is not the one that was rated last")
        return self._database.undo(rater, showing.number, showing.attempt, at=time.time())

    def grid(self, rater: str, number: int) -> bytes | None:
        """The picture of a showing: one already rated, the present one, or the next, to have it at hand."""
        current = self.place(rater).current
        far = len(self._order[rater]) - 1 if current is None else current.number + 1
        if not 0 <= number <= min(far, len(self._order[rater]) - 1):
            return None
        return self._grids[self._order[rater][number].item]

    def _is_rated(self, rater: str, showing: Showing) -> bool:
        """Whether this attempt was ever stored, taken back since or not."""
        return showing.attempt < self._database.done(rater).attempts.get(showing.number, 0)
