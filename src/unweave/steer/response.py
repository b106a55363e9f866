"""What a model answers at each dose of a latent: an artifact and its reading."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure

from unweave.figures.dose import DoseCurves, dose_figure
from unweave.steer.dosed import Dosed
from unweave.store.files import load_table, load_tensors

KIND = "dose-response"
CLASSES = "classes.parquet"
ANSWERS = "answers.parquet"
PICTURES = "pictures.safetensors"


@dataclass(frozen=True)
class Effect:
    """The class that a latent moves most, at the dose that moves rows furthest.

    Attributes:
        latent: its number.
        dose: in the response's unit.
        class_name: whose logit changes most.
        change: change of its mean logit against the unedited model.
        band: 95 % band of the change over examples.
        control: middle 95 % of what random directions do to the same logit.
        beyond: whether the band lies outside the control.
    """

    latent: int
    dose: float
    class_name: str
    change: float
    band: tuple[float, float]
    control: tuple[float, float]
    beyond: bool


@dataclass(frozen=True, eq=False)
class Response(Dosed):
    """A model's answers at each dose of some latents, beside those to moves along random directions.

    Attributes:
        folder: the artifact.

    Raises:
        StoreError: the folder is no whole dose–response.
    """

    kind = KIND

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in self.manifest.details["class_names"]]

    @cached_property
    def table(self) -> pa.Table:
        """A row for each latent, dose and class: means over examples with 95 % bands, beside the control.

        `logit` and `probability` are means; `…_change` is against the unedited model, example by example. `…_low` and
        `…_high` are ends of bootstrap bands over examples; `control_…` is the mean over random directions and the
        middle 95 % of them.
        """
        return load_table(self.folder / CLASSES)

    @cached_property
    def answers(self) -> pa.Table:
        """A row for each latent and dose: how far rows move, share of answers that change, beside the control."""
        return load_table(self.folder / ANSWERS)

    @cached_property
    def _pictures(self) -> dict[str, Float[np.ndarray, "..."]]:
        if PICTURES not in self.manifest.files:
            return {}
        return {name: tensor.numpy() for name, tensor in load_tensors(self.folder / PICTURES).items()}

    def pictures(self, latent: int) -> Float[np.ndarray, "doses c h w"] | None:
        """The mean picture at each dose; None where no decoder was given.

        Raises:
            InputError: the latent was not moved.
        """
        place = self._place(latent)
        return np.asarray(self._pictures["mean"][place]) if self._pictures else None

    @property
    def unedited_picture(self) -> Float[np.ndarray, "c h w"] | None:
        """The mean picture of the rows as they are; None where no decoder was given."""
        return self._pictures.get("unedited")

    def curve(self, latent: int, column: str) -> Float[np.ndarray, "doses classes"]:
        """A column of `table` for one latent, doses by classes.

        Raises:
            InputError: the latent was not moved, or there is no such column.
        """
        return self._of_doses(self.table, latent, column)

    def of_answers(self, latent: int, column: str) -> Float[np.ndarray, " doses"]:
        """A column of `answers` for one latent.

        Raises:
            InputError: the latent was not moved, or there is no such column.
        """
        return self._of_doses(self.answers, latent, column)[:, 0]

    def strongest(self) -> list[Effect]:
        """For each latent the class that it moves most, those furthest beyond their control first."""
        found = [self._effect(latent) for latent in self.latents]
        return sorted(found, key=lambda effect: max(map(abs, effect.control)) - abs(effect.change))

    def _effect(self, latent: int) -> Effect:
        at = int(np.argmax(self.of_answers(latent, "length")))
        change, low, high, control_low, control_high = (
            self.curve(latent, f"{name}")[at]
            for name in (
                "logit_change",
                "logit_change_low",
                "logit_change_high",
                "control_logit_change_low",
                "control_logit_change_high",
            )
        )
        best = int(np.argmax(np.abs(change)))
        return Effect(
            latent=latent,
            dose=self.doses[at],
            class_name=self.class_names[best],
            change=float(change[best]),
            band=(float(low[best]), float(high[best])),
            control=(float(control_low[best]), float(control_high[best])),
            beyond=bool(low[best] > control_high[best] or high[best] < control_low[best]),
        )

    def figure(self, latent: int) -> Figure:
        """Change of the logits and probabilities by class over the doses, and the mean picture at each dose."""
        columns = {name: self.curve(latent, name) for name in self.table.column_names[4:]}
        curves = DoseCurves(
            latent=latent,
            doses=np.asarray(self.doses),
            label=self._label,
            class_names=self.class_names,
            columns=columns,
            changed={name: self.of_answers(latent, name) for name in self.answers.column_names[3:]},
            pictures=self.pictures(latent),
            unedited=self.unedited_picture,
        )
        return dose_figure(curves)

    def __repr__(self) -> str:
        at = self.manifest.details["hook_name"]
        return f"Response({at!r}, latents={self.latents}, {self.op} {self.doses}, {str(self.folder)!r})"
