"""From answers, example by example, to curves over doses with their bands and their control."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator
from unweave.stats.bootstrap import mean_band
from unweave.steer.response import ANSWERS, CLASSES, PICTURES
from unweave.store.artifact import Draft
from unweave.store.files import save_table, save_tensors

_MOST = 1 << 28

Columns = dict[str, np.ndarray]


class Collected:
    """Answers of every example at every dose, and sums over examples of what the control answers.

    Attributes:
        values: what each dose does to the code.
        unedited: the model's own answers, by example.
        logits: answers by example, latent and dose.
        control_logits: summed over examples, by latent, dose and random direction.
        control_probabilities: the same.
        control_changed: examples whose answer changes, by latent, dose and random direction.
    """

    def __init__(
        self,
        latents: tuple[int, ...],
        doses: tuple[float, ...],
        values: Float[Tensor, "latents doses"],
        controls: int,
        n: int,
        class_names: list[str],
    ) -> None:
        shape, classes = (len(latents), len(doses)), len(class_names)
        if (needed := n * len(latents) * len(doses) * classes) > _MOST:
            raise InputError(
                f"{n:,} examples, {len(latents)} latents, {len(doses)} doses and {classes:,} classes make {needed:,} "
                "answers to keep; give fewer examples or latents at a time"
            )
        self.latents, self.doses, self.values, self.class_names = latents, doses, values, class_names
        self.n, self._controls, self._here = n, controls, slice(0, 0)
        self.unedited = torch.zeros(n, classes, dtype=torch.float64)
        self.logits = torch.zeros(n, *shape, classes)
        self.control_logits = torch.zeros(*shape, controls, classes, dtype=torch.float64)
        self.control_probabilities = torch.zeros_like(self.control_logits)
        self.control_changed = torch.zeros(*shape, controls, dtype=torch.float64)
        self._lengths = torch.zeros(shape, dtype=torch.float64)
        self._pictures: Tensor | None = None
        self._unedited_picture: Tensor | None = None

    def open(self, answers: Float[Tensor, "b classes"], pictures: Tensor | None) -> None:
        """Begin a batch: the model's own answers and, with a decoder, the pictures of its rows."""
        self._here = slice(self._here.stop, self._here.stop + len(answers))
        self.unedited[self._here] = answers.float().double()  # as precise as those that they are compared with
        if pictures is not None:
            total = pictures.double().sum(0).cpu()
            self._unedited_picture = total if self._unedited_picture is None else self._unedited_picture + total

    def take_in(self, place: int, answers: Float[Tensor, "moves b classes"], lengths: Float[Tensor, "doses m"]) -> None:
        """One latent's answers in this batch: at each dose, then at each dose along each random direction."""
        doses = len(self.doses)
        self.logits[self._here, place] = answers[:doses].transpose(0, 1).float()
        control = answers[doses:].unflatten(0, (doses, self._controls))
        self.control_logits[place] += control.sum(2, dtype=torch.float64)
        self.control_probabilities[place] += control.softmax(-1).sum(2, dtype=torch.float64)
        own = self.unedited[self._here].argmax(-1)
        self.control_changed[place] += (control.argmax(-1) != own).sum(2)
        self._lengths[place] += lengths.double().mean(1).cpu() * answers.shape[1]

    def take_in_pictures(self, place: int, pictures: list[Tensor]) -> None:
        """One latent's pictures in this batch, dose by dose."""
        total = torch.stack([part.double().sum(0).cpu() for part in pictures])
        if self._pictures is None:
            self._pictures = torch.zeros(len(self.latents), *total.shape, dtype=torch.float64)
        self._pictures[place] += total

    @property
    def lengths(self) -> Float[Tensor, "latents doses"]:
        """How far a row moves, the mean over rows."""
        return self._lengths / self.n

    def mean_pictures(self) -> dict[str, Tensor]:
        """Mean pictures of the rows as they are, and at each latent and dose."""
        if self._pictures is None or self._unedited_picture is None:
            return {}
        return {"mean": (self._pictures / self.n).float(), "unedited": (self._unedited_picture / self.n).float()}


def write_curves(
    draft: Draft, found: Collected, labels: Int64[Tensor, " n"] | None, *, resamples: int, seed: int
) -> None:
    """Write the tables and pictures of a dose–response."""
    classes: list[Columns] = []
    answers: list[Columns] = []
    for place in range(len(found.latents)):
        by_class, by_dose = _curves_of(found, place, labels, resamples, seed)
        classes.append(by_class)
        answers.append(by_dose)
    save_table(draft.folder / CLASSES, stacked(classes))
    save_table(draft.folder / ANSWERS, stacked(answers))
    if pictures := found.mean_pictures():
        save_tensors(draft.folder / PICTURES, pictures)
    own = found.unedited
    draft.details.update(
        class_names=found.class_names,
        unedited_logits=own.mean(0).tolist(),
        unedited_probabilities=own.softmax(1).mean(0).tolist(),
        unedited_accuracy=None if labels is None else float((own.argmax(1) == labels).double().mean()),
    )


def stacked(parts: list[Columns]) -> Columns:
    """Tables below each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _curves_of(
    found: Collected, place: int, labels: Int64[Tensor, " n"] | None, resamples: int, seed: int
) -> tuple[Columns, Columns]:
    """One latent's columns: by dose and class, and by dose."""
    logits, own = found.logits[:, place].double(), found.unedited.unsqueeze(1)
    probabilities, answer = logits.softmax(-1), logits.argmax(-1)
    of_class = {
        "logit": logits,
        "logit_change": logits - own,
        "probability": probabilities,
        "probability_change": probabilities - own.softmax(-1),
    }
    of_dose = {"changed": (answer != own.argmax(-1)).double()}
    if labels is not None:
        of_dose["accuracy"] = (answer == labels.unsqueeze(1)).double()
    control_of_class = {
        "logit_change": found.control_logits[place] / found.n - found.unedited.mean(0),
        "probability": found.control_probabilities[place] / found.n,
    }
    latent = np.full(len(found.doses), found.latents[place], np.int32)
    dose: Columns = {"latent": latent, "dose": np.asarray(found.doses), "value": found.values[place].numpy()}
    classes = len(found.class_names)
    by_class = {name: np.repeat(column, classes) for name, column in dose.items()}
    by_class["class"] = np.tile(np.arange(classes, dtype=np.int32), len(found.doses))
    by_class |= with_bands(of_class, resamples, seed) | with_range(control_of_class)
    by_dose = dose | {"length": found.lengths[place].numpy()}
    by_dose |= with_bands(of_dose, resamples, seed)
    by_dose |= with_range({"changed": found.control_changed[place] / found.n})
    return by_class, by_dose


def with_bands(by_example: dict[str, Float[Tensor, "n ..."]], resamples: int, seed: int) -> Columns:
    """Means over examples with their 95 % bands; the same draws of examples behind every band."""
    flat = {name: value.flatten(1).numpy() for name, value in by_example.items()}
    generator = numpy_generator(seed, "examples")
    bands = mean_band(np.concatenate(list(flat.values()), 1), resamples=resamples, generator=generator)
    columns: Columns = {}
    for part, (name, values) in enumerate(flat.items()):
        low, high = np.split(bands, len(flat), axis=1)[part]
        columns |= {name: values.mean(0), f"{name}_low": low, f"{name}_high": high}
    return columns


def with_range(by_direction: dict[str, Float[Tensor, "doses controls ..."]]) -> Columns:
    """Means over random directions, and the middle 95 % of them."""
    columns: Columns = {}
    for name, value in by_direction.items():
        low, high = np.percentile(value.numpy(), [2.5, 97.5], axis=1)
        columns[f"control_{name}"] = value.mean(1).flatten().numpy()
        columns |= {f"control_{name}_low": low.ravel(), f"control_{name}_high": high.ravel()}
    return columns
