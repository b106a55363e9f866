"""The plan of a study: all that is fixed before the first rating, and that everybody may read."""

from dataclasses import dataclass, field

QUESTION = "How visually consistent do the images of this feature appear?"


@dataclass(frozen=True, kw_only=True)
class Match:
    """How well one condition's latents fit the first condition's in firing frequency.

    Attributes:
        condition: which.
        eligible: latents that could be drawn.
        median_ratio: of the matched pairs' rates, the larger over the smaller.
        largest_ratio: of the worst pair.
    """

    condition: str
    eligible: int
    median_ratio: float
    largest_ratio: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`plan.json`: it tells neither the condition nor the latent of any item.

    Attributes:
        study: fingerprint of the study.
        question: what raters are asked about each grid.
        anchors: words at numbers of the scale, which goes from 1 to 7.
        conditions: names; the first is compared with the others.
        latents: how many of each condition.
        images: how many in a grid.
        items: names of the grids, in an order that tells nothing.
        raters: names.
        repeats: grids that each rater gets a second time.
        order_seed: what the order of showing of each rater comes from.
        enough: ratings that have to be in before the key is opened.
        rule: how the latents were drawn, in words.
        matches: how well the conditions fit each other.
        warnings: what to know before trusting the result.
        commitment: SHA-256 of the salted key.
    """

    study: str
    question: str = QUESTION
    anchors: dict[str, str] = field(default_factory=dict)
    conditions: list[str]
    latents: int
    images: int
    items: list[str]
    raters: list[str]
    repeats: int
    order_seed: int
    enough: int
    rule: list[str] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    commitment: str

    @property
    def showings(self) -> int:
        """Grids that each rater is shown, repeats included."""
        return len(self.items) + self.repeats

    @property
    def planned(self) -> int:
        """Ratings of all raters, repeats included."""
        return len(self.raters) * self.showings
