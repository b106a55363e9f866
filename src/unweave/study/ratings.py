"""One rating as it counts, and the record of who looked behind the seal."""

from dataclasses import dataclass

LOWEST, HIGHEST = 1, 7


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A person's answer about one grid; what was taken back is gone.

    Attributes:
        rater: who.
        item: which grid.
        value: 1 to 7.
        repeat: whether it is the hidden second showing of the item to this person.
        rated_at: when it was stored, in unix seconds.
        seconds: how long the grid was looked at; NaN where the server was started anew in between.
    """

    rater: str
    item: str
    value: int
    repeat: bool
    rated_at: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Unsealing:
    """One opening of the key.

    Attributes:
        at: when, in unix seconds.
        present: ratings that were in.
        planned: ratings that the plan asks for.
        early: whether fewer were in than the plan calls enough.
    """

    at: float
    present: int
    planned: int
    early: bool
