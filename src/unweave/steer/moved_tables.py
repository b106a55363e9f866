"""From answers to moved rows, example by example, to the tables of how far answers move."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unweave.core.errors import InputError
from unweave.steer.curves import Columns, stacked, with_bands, with_range
from unweave.steer.doses import Plan
from unweave.steer.moved_result import DOSES, EXAMPLES, FOLLOWED, TEXTS
from unweave.store.artifact import Draft
from unweave.store.files import save_table

_MOST = 1 << 27


@dataclass(frozen=True, eq=False)
class Choice:
    """The classes or tokens that are followed.

    Attributes:
        followed: of each latent, what its furthest dose moves most; the most moved first.
        far: of each latent, which dose is the furthest.
        null: of each latent, the largest change of any mean probability that random directions make at this dose: its
            97.5th percentile over directions.
    """

    followed: Int64[Tensor, "latents k"]
    far: Int64[Tensor, " latents"]
    null: Float64[np.ndarray, " latents"]


class Gathered:
    """How far the answer to each example moves, for the latents' doses and the random directions.

    Attributes:
        plan: what was asked.
        values: what each dose does to the code.
        choice: the logits that are followed; None where answers are vectors.
        lengths: of the moves, summed over rows, by latent and dose.
        rows: how many there were.
    """

    def __init__(self, plan: Plan, values: Float[Tensor, "latents doses"], n: int, choice: Choice | None) -> None:
        self.plan, self.values, self.choice, self.n = plan, values, choice, n
        latents, doses = values.shape
        if n * latents * doses * plan.controls > _MOST:
            raise InputError(
                f"{n:,} examples, {latents} latents, {doses} doses and {plan.controls} random directions make more "
                "answers than fit; give fewer examples or latents at a time"
            )
        self.lengths = torch.zeros(latents, doses, dtype=torch.float64)
        self.rows = 0
        self.change = torch.zeros(n, latents, doses, dtype=torch.float64)
        self.control = torch.zeros(n, latents, doses, plan.controls)
        self.largest = torch.zeros(n, latents)
        self._here, self._own = slice(0, 0), torch.zeros(0)
        self._codes: list[tuple[Tensor, Tensor, Tensor]] = []
        if choice is None:
            return
        self.before, self.probability_before = torch.zeros(n, dtype=torch.int64), torch.zeros(n)
        self.after = torch.zeros(n, latents, doses, dtype=torch.int64)
        self.probability_after, self.probability_kept = torch.zeros(2, n, latents, doses)
        self.control_changed = torch.zeros(latents, doses, plan.controls, dtype=torch.float64)
        k = choice.followed.shape[1]
        self.followed_before = torch.zeros(n, latents, k, dtype=torch.float64)
        self.followed = torch.zeros(n, latents, doses, k, dtype=torch.float64)
        self.control_followed = torch.zeros(latents, doses, plan.controls, k, dtype=torch.float64)

    def open(
        self,
        answers: Float[Tensor, "b c"],
        codes: Float[Tensor, "m latents"],
        example: Int64[Tensor, " m"],
        position: Int64[Tensor, " m"],
    ) -> None:
        """Begin a batch: the model's own answers, and the codes of its rows."""
        start = self._here.stop
        self._here = slice(start, start + len(answers))
        self._own = answers.float().double()  # as precise as those that they are compared with
        codes, example = codes.float().cpu(), example.cpu()
        index = example.unsqueeze(1).expand_as(codes)
        self.largest[self._here] = self.largest[self._here].scatter_reduce(0, index, codes, "amax")
        self._codes.append((codes, example + start, position.cpu()))
        self.rows += len(codes)
        if self.choice is not None:
            self._own = self._own.log_softmax(1)
            probability, self.before[self._here] = self._own.exp().max(1)
            self.probability_before[self._here] = probability.float()
            self.followed_before[self._here] = self._own.exp()[:, self.choice.followed]

    def take_in(self, place: int, moves: Int64[Tensor, " v"], answers: Float[Tensor, "v b c"]) -> None:
        """Answers to some moves of one latent: to each dose, then to each dose along each random direction."""
        doses, controls = self.lengths.shape[1], self.plan.controls
        new = answers.double()
        if self.choice is None:
            change = 1 - cosine_similarity(new, self._own.unsqueeze(0), dim=2)
        else:
            new = new.log_softmax(2)
            change = (self._own.exp() * (self._own - new)).sum(2)
        for move, one, moved in zip(moves.tolist(), new, change, strict=True):
            dose, direction = (move, None) if move < doses else divmod(move - doses, controls)
            if direction is None:
                self.change[self._here, place, dose] = moved
            else:
                self.control[self._here, place, dose, direction] = moved.float()
            if self.choice is not None:
                self._follow(place, dose, direction, one, self.choice.followed[place])

    def _follow(
        self, place: int, dose: int, direction: int | None, new: Float[Tensor, "b c"], followed: Int64[Tensor, " k"]
    ) -> None:
        """Probabilities after one move."""
        here = self._here
        largest, after = new.max(1)
        if direction is not None:
            self.control_changed[place, dose, direction] += int((after != self.before[here]).sum())
            self.control_followed[place, dose, direction] += new[:, followed].exp().sum(0)
            return
        self.after[here, place, dose] = after
        self.probability_after[here, place, dose] = largest.exp().float()
        self.probability_kept[here, place, dose] = new.gather(1, self.before[here].unsqueeze(1))[:, 0].exp().float()
        self.followed[here, place, dose] = new[:, followed].exp()

    def codes_of(self, place: int, example: int) -> tuple[Int64[Tensor, " m"], Float[Tensor, " m"]]:
        """Positions of an example's rows, and a latent's codes at them."""
        for codes, examples, position in self._codes:
            if int(examples[0]) <= example <= int(examples[-1]):
                own = examples == example
                return position[own], codes[own, place]
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)


def write_moved(
    draft: Draft,
    found: Gathered,
    plan: Plan,
    named: Callable[[Sequence[int]], list[str]],
    tokens: Callable[[Sequence[int]], list[list[str]]] | None,
    *,
    shown: int,
    seed: int,
) -> None:
    """Write the tables of a measurement; `tokens` gives those of some texts."""
    places = range(len(plan.latents))
    save_table(draft.folder / EXAMPLES, stacked([_of_examples(found, place) for place in places]))
    save_table(draft.folder / DOSES, stacked([_of_doses(found, place, seed) for place in places]))
    if found.choice is not None:
        followed = [_of_followed(found, place, seed) for place in places]
        save_table(draft.folder / FOLLOWED, stacked(followed))
        used = {int(one) for one in torch.cat([found.before, found.after.flatten()]).unique()}
        used |= {int(one) for one in found.choice.followed.unique()}
        listed = sorted(used)
        draft.details["names"] = dict(zip(map(str, listed), named(listed), strict=True))
        draft.details["far"] = found.choice.far.tolist()
        draft.details["largest_by_chance"] = found.choice.null.tolist()
    if tokens is not None and shown:
        save_table(draft.folder / TEXTS, _of_texts(found, plan, tokens, shown))


def _keys(found: Gathered, place: int) -> Columns:
    doses = found.plan.doses
    return {
        "latent": np.full(len(doses), found.plan.latents[place], np.int32),
        "dose": np.asarray(doses),
        "value": found.values[place].numpy(),
    }


def _of_examples(found: Gathered, place: int) -> Columns:
    keys = {name: np.repeat(column, found.n) for name, column in _keys(found, place).items()}
    table: Columns = {
        **keys,
        "example": np.tile(np.arange(found.n), len(found.plan.doses)),
        "largest": np.tile(found.largest[:, place].numpy(), len(found.plan.doses)),
        "change": found.change[:, place].T.flatten().numpy(),
        "control_change": found.control[:, place].mean(2).T.flatten().numpy(),
    }
    if found.choice is not None:
        doses = len(found.plan.doses)
        table["answer_before"] = np.tile(found.before.numpy(), doses)
        table["probability_before"] = np.tile(found.probability_before.numpy(), doses)
        table["answer_after"] = found.after[:, place].T.flatten().numpy()
        table["probability_after"] = found.probability_after[:, place].T.flatten().numpy()
        table["probability_kept"] = found.probability_kept[:, place].T.flatten().numpy()
    return table


def _of_doses(found: Gathered, place: int, seed: int) -> Columns:
    by_example: dict[str, Tensor] = {"change": found.change[:, place]}
    by_direction: dict[str, Tensor] = {"change": found.control[:, place].double().mean(0)}
    if found.choice is not None:
        by_example["changed"] = (found.after[:, place] != found.before.unsqueeze(1)).double()
        by_direction["changed"] = found.control_changed[place] / found.n
    table: Columns = {**_keys(found, place), "length": (found.lengths[place] / found.rows).numpy()}
    return table | with_bands(by_example, found.plan.resamples, seed) | with_range(by_direction)


def _of_followed(found: Gathered, place: int, seed: int) -> Columns:
    assert found.choice is not None
    before = found.followed_before[:, place]
    by_example = {
        "probability": found.followed[:, place],
        "probability_change": found.followed[:, place] - before.unsqueeze(1),
    }
    control = found.control_followed[place] / found.n - before.mean(0)
    k = before.shape[1]
    keys = {name: np.repeat(column, k) for name, column in _keys(found, place).items()}
    keys["answer"] = np.tile(found.choice.followed[place].numpy(), len(found.plan.doses))
    return keys | with_bands(by_example, found.plan.resamples, seed) | with_range({"probability_change": control})


def _of_texts(
    found: Gathered, plan: Plan, tokens: Callable[[Sequence[int]], list[list[str]]], shown: int
) -> dict[str, list[object]]:
    """Of each latent the texts on which it is strongest, with its code at each token."""
    table: dict[str, list[object]] = {"latent": [], "example": [], "tokens": [], "values": []}
    for place, latent in enumerate(plan.latents):
        order = found.largest[:, place].argsort(descending=True, stable=True)[:shown].tolist()
        chosen = [one for one in order if found.largest[one, place] > 0]
        for example, words in zip(chosen, tokens(chosen) if chosen else [], strict=True):
            values = torch.full((len(words),), float("nan"))
            position, codes = found.codes_of(place, example)
            if plan.rows == "position" and len(position) and int(position.max()) < len(words):
                values[position] = codes
            for name, value in zip(table, (latent, example, words, values.tolist()), strict=True):
                table[name].append(value)
    return table
