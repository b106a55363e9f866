"""What the stage leaves: how far each example's answer moves at each dose of some latents."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.core.errors import InputError
from unweave.figures.contexts import shown
from unweave.figures.moved import Followed, MovedCurves, MovedText, moved_figure
from unweave.steer.dosed import Dosed
from unweave.store.files import load_table

KIND = "moved-answers"
EXAMPLES = "examples.parquet"
DOSES = "doses.parquet"
FOLLOWED = "followed.parquet"
TEXTS = "texts.parquet"


@dataclass(frozen=True)
class MovedEffect:
    """What the furthest dose of a latent does to the answers.

    Attributes:
        latent: its number.
        dose: in the result's unit.
        change: mean over examples of how far an answer moves: nats of divergence, or 1 − cosine.
        band: its 95 % band over examples.
        control: middle 95 % of what random directions do.
        answer: the class or token whose mean probability moves most; "" where answers are vectors.
        probability: its change.
        by_chance: the largest change of any mean probability that random directions make.
        beyond: whether answers move further than along random directions: the band lies above the control.
    """

    latent: int
    dose: float
    change: float
    band: tuple[float, float]
    control: tuple[float, float]
    answer: str
    probability: float
    by_chance: float
    beyond: bool


@dataclass(frozen=True, eq=False)
class MovedAnswers(Dosed):
    """How far answers move at each dose of some latents, beside moves along random directions.

    Attributes:
        folder: the artifact.

    Raises:
        StoreError: the folder holds something else, or is damaged.
    """

    kind = KIND

    @property
    def logits(self) -> bool:
        """Whether answers are logits, of classes or of the next token; else they are vectors."""
        return bool(self.manifest.config["logits"])

    def name(self, answer: int) -> str:
        """The name of a class or token that some example was answered with, or that was followed."""
        return str(self.manifest.details["names"][str(answer)])

    @cached_property
    def examples(self) -> pa.Table:
        """A row for each latent, dose and example: how far its answer moves, and the answer before and after.

        `change` is in nats of divergence, or 1 − cosine of vectors; `control_change` the mean over random directions.
        `answer_before` and `answer_after` are the classes or tokens with the largest logit (names: `name`),
        `probability_kept` is what the answer as it was has then. `largest` is the latent's largest code in the example.
        """
        return load_table(self.folder / EXAMPLES)

    @cached_property
    def table(self) -> pa.Table:
        """A row for each latent and dose: means over examples with 95 % bands, beside random directions."""
        return load_table(self.folder / DOSES)

    @cached_property
    def followed(self) -> pa.Table | None:
        """A row for each latent, dose and followed class or token; None where answers are vectors."""
        return load_table(self.folder / FOLLOWED) if FOLLOWED in self.manifest.files else None

    def curve(self, latent: int, column: str) -> Float[np.ndarray, " doses"]:
        """A column of `table` for one latent.

        Raises:
            InputError: the latent was not moved, or there is no such column.
        """
        return self._of_doses(self.table, latent, column)[:, 0]

    def strongest(self) -> list[MovedEffect]:
        """What the furthest dose of each latent does; those furthest beyond their control first."""
        found = [self._effect(latent) for latent in self.latents]
        return sorted(found, key=lambda one: one.control[1] - one.band[0])

    def texts_of(self, latent: int, dose: float | None = None) -> list[MovedText]:
        """The texts on which a latent is strongest, with their tokens, before and after; none where there are none.

        Args:
            latent: which.
            dose: by default the furthest.

        Raises:
            InputError: the latent was not moved, or not by this dose.
        """
        place = self._place(latent)
        if TEXTS not in self.manifest.files:
            return []
        at = self._far(latent) if dose is None else self._dose(dose)
        kept = [one for one in load_table(self.folder / TEXTS).to_pylist() if one["latent"] == latent]
        first = (place * len(self.doses) + at) * self.n
        return [self._text(one, self.examples.slice(first + one["example"], 1).to_pylist()[0]) for one in kept]

    def _text(self, kept: dict[str, object], row: dict[str, float]) -> MovedText:
        before, after = "", ""
        if self.logits:
            before = f"{shown(self.name(int(row['answer_before'])))} {row['probability_before']:.2f}"
            after = f"{shown(self.name(int(row['answer_after'])))} {row['probability_after']:.2f}"
        return MovedText(
            example=int(row["example"]),
            tokens=list(kept["tokens"]),  # type: ignore[call-overload]
            values=np.asarray(kept["values"], np.float64),
            change=float(row["change"]),
            before=before,
            after=after,
        )

    def figure(self, latent: int) -> Figure:
        """How far answers move over the doses, what becomes likelier, and texts before and after."""
        columns = {name: self.curve(latent, name) for name in self.table.column_names[3:]}
        curves = MovedCurves(
            latent=latent,
            doses=np.asarray(self.doses),
            label=self._label,
            logits=self.logits,
            columns=columns,
            followed=self.followed_of(latent),
            by_chance=self._by_chance(latent),
            texts=self.texts_of(latent),
        )
        return moved_figure(curves)

    def followed_of(self, latent: int) -> list[Followed]:
        """The classes or tokens that are followed, the most moved first; none where answers are vectors.

        Raises:
            InputError: the latent was not moved.
        """
        if self.followed is None:
            return []
        place = self._place(latent)
        k = self.followed.num_rows // (len(self.latents) * len(self.doses))
        part = self.followed.slice(place * len(self.doses) * k, len(self.doses) * k)
        columns = {
            name: np.asarray(part[name]).reshape(-1, k) for name in part.column_names if name not in ("latent", "dose")
        }
        return [
            Followed(
                name=self.name(int(columns["answer"][0, one])),
                probability=columns["probability"][:, one],
                change=columns["probability_change"][:, one],
                low=columns["probability_change_low"][:, one],
                high=columns["probability_change_high"][:, one],
            )
            for one in range(k)
        ]

    def _effect(self, latent: int) -> MovedEffect:
        at = self._far(latent)
        change, low, high, control_low, control_high = (
            float(self.curve(latent, name)[at])
            for name in ("change", "change_low", "change_high", "control_change_low", "control_change_high")
        )
        followed = self.followed_of(latent)
        most = max(followed, key=lambda one: abs(one.change[at])) if followed else None
        return MovedEffect(
            latent=latent,
            dose=self.doses[at],
            change=change,
            band=(low, high),
            control=(control_low, control_high),
            answer="" if most is None else most.name,
            probability=math.nan if most is None else float(most.change[at]),
            by_chance=self._by_chance(latent),
            beyond=low > control_high,
        )

    def _by_chance(self, latent: int) -> float:
        if not self.logits:
            return math.nan
        return float(self.manifest.details["largest_by_chance"][self._place(latent)])

    def _far(self, latent: int) -> int:
        if self.logits:  # what is followed, and what chance does to it, was measured at this dose
            return int(self.manifest.details["far"][self._place(latent)])
        return int(np.argmax(self.curve(latent, "length")))

    def _dose(self, dose: float) -> int:
        if dose not in self.doses:
            raise InputError(f"{dose:g} was no dose; these were: {', '.join(f'{one:g}' for one in self.doses)}")
        return self.doses.index(dose)

    def __repr__(self) -> str:
        at = self.manifest.details["hook_name"]
        return f"MovedAnswers({at!r}, latents={self.latents}, doses={self.doses}, {str(self.folder)!r})"
