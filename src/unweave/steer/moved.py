"""The stage: latents at several doses, and how far each example's own answer moves: logits, next tokens, embeddings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unweave.core.config import Json
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.datasets.base import Dataset, TextDataset
from unweave.dictionaries.base import Dictionary
from unweave.models.adopted import ReadsText
from unweave.models.hooks import Side
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning
from unweave.steer.context import hook_point
from unweave.steer.doses import (
    DoseOp,
    DoseUnit,
    Plan,
    check_doses,
    dose_values,
    largest_codes,
    random_directions,
    steps_of,
)
from unweave.steer.edits import check_latent
from unweave.steer.examples import Examples
from unweave.steer.moved_result import KIND, MovedAnswers
from unweave.steer.moved_tables import Choice, Gathered, write_moved
from unweave.steer.moves import Opened
from unweave.store.artifact import Identity, existing, writing
from unweave.store.layout import Layout
from unweave.store.scratch import Scratch

Names = Sequence[str] | Callable[[Sequence[int]], list[str]]
_ANSWERS_AT_ONCE = 1 << 23
_MOST_SUMS = 1 << 27


@torch.no_grad()
def moved_answers(
    model: nn.Module,
    sae: Dictionary,
    examples: Tensor | Dataset,
    *,
    latents: Sequence[int],
    doses: Sequence[float] = (0.0, 0.5, 1.0, 2.0),
    op: DoseOp = "set",
    unit: DoseUnit = "max",
    at: str | None = None,
    names: Names | None = None,
    rows: RowMeaning = "position",
    side: Side = "output",
    layout: Layout | None = None,
    positions: Sequence[int] | None = None,
    controls: int = 20,
    most: int = 8,
    shown: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> MovedAnswers:
    """Give each latent several doses, and measure how far the answer to each example moves from what it was.

    Rows move as in `dose_response`, and so does the control: as far, along random directions. How far an answer moves
    is the divergence Σ p log(p / q) in nats where answers are logits, of classes or of the next token, and
    1 − cosine where they are vectors. Of the logits, those are followed whose mean probability the furthest dose moves
    most; because they are the largest of many, they are held against the largest that each random direction moves.

    Args:
        model: any network with one answer [b, c] for each example.
        sae: a dictionary of the hook point's rows.
        examples: a tensor [n, …] or a data set, of texts too where the model has a tokenizer.
        latents: which latents, one at a time.
        doses: how much; what a dose is, `op` and `unit` say.
        op: the code becomes the dose (`set`), grows by it (`add`), or is multiplied by it (`scale`).
        unit: doses are multiples of the latent's largest code on these examples (`max`), or as they are (`value`).
        at: dotted name of the module; by default the dictionary's own.
        names: of the classes, or a function from numbers to names (a vocabulary); None where answers are vectors.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        layout: how positions lie in an example, as it was captured; needed where some tokens give no rows.
        positions: rows that are moved; numbers below 0 count from the end of each example; by default all.
        controls: random directions; the same ones for every latent and dose.
        most: classes or tokens that are followed.
        shown: texts of each latent that are kept with their tokens, those on which it is strongest.
        resamples: bootstrap draws behind each band.
        seed: decides both.
        batch_size: examples a pass.
        out: folder of the artifact; temporary by default, gone with the returned object.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: an unknown hook point or latent, rows of another width, a latent that never fires with doses in
            multiples of its largest code, names for another number of classes.
    """
    given = Examples(examples, None, None, model)
    rest = RestOfNetwork(model, hook_point(model, sae, at), side=side)
    check_doses(op, unit, doses, latents, controls, resamples)
    _check_counts(most, shown)
    plan = Plan(
        at=rest.name, latents=tuple(check_latent(latent, sae.d_sae) for latent in latents),
        doses=tuple(map(float, doses)), op=op, unit="factor" if op == "scale" else unit, rows=rows, side=side,
        controls=controls, resamples=resamples, class_names=None if names is None or callable(names) else tuple(names),
        layout=layout, positions=None if positions is None else tuple(positions),
    )  # fmt: skip
    config: Json = {**plan.as_json(), "logits": names is not None, "most": most, "shown": shown}
    inputs = {"model": hash_module(model), "dictionary": hash_module(sae), "examples": given.id}
    identity = Identity(kind=KIND, config=config, inputs=inputs, seed=seed)
    scratch, folder = _place(out)
    if not existing(folder, identity, overwrite=overwrite):
        work = _Work(rest, sae, given, plan, seed, batch_size, logits=names is not None)
        threads = rest.threads_for(next(given.batches(batch_size)))
        with threads, writing(folder, identity, overwrite=overwrite) as draft:
            found, tokens = work.measure(most, _count(names)), _tokens(model, examples)
            write_moved(draft, found, plan, _named(names), tokens, shown=shown, seed=seed)
            draft.details.update(hook_name=rest.name, examples=given.n, shortcut=rest.shortcut)
    return MovedAnswers(folder, scratch)


def _check_counts(most: int, shown: int) -> None:
    if most < 1 or shown < 0:
        raise InputError(f"most must be at least 1 and shown not negative, got {most} and {shown}")


def _place(out: str | Path | None) -> tuple[Scratch | None, Path]:
    if out is not None:
        return None, Path(out)
    scratch = Scratch()
    return scratch, scratch.path / "moved"


def _tokens(model: nn.Module, examples: Tensor | Dataset) -> Callable[[Sequence[int]], list[list[str]]] | None:
    reader: object = model
    if not isinstance(examples, TextDataset) or not isinstance(reader, ReadsText):
        return None
    return lambda some: reader.tokens([examples.texts[one] for one in some])


def _count(names: Names | None) -> int | None:
    return None if names is None or callable(names) else len(names)


def _named(names: Names | None) -> Callable[[Sequence[int]], list[str]]:
    if names is None:
        return lambda _: []
    return names if callable(names) else lambda some: [names[one] for one in some]


@dataclass(frozen=True, eq=False)
class _Work:
    """The passes over the examples."""

    rest: RestOfNetwork
    sae: Dictionary
    examples: Examples
    plan: Plan
    seed: int
    batch_size: int
    logits: bool

    def measure(self, most: int, classes: int | None) -> Gathered:
        """Two passes: the furthest dose finds what it moves, then every dose is measured."""
        plan = self.plan
        largest = largest_codes(self.rest, self.sae, self.examples, plan, self.batch_size)
        values = dose_values(plan, largest)
        work = self.examples.n * len(plan.latents) * (2 if self.logits else 1)
        with progress("Moving", total=work, unit="examples") as bar:
            choice = self._choice(values, most, classes, bar.advance) if self.logits else None
            found = Gathered(plan, values, self.examples.n, choice)
            for batch in self._batches():
                codes = batch.codes()[:, self._index]
                found.open(batch.answers, codes, batch.example, batch.position)
                for place in range(len(plan.latents)):
                    steps = self._steps(batch, codes, values[place], place)
                    for moves, answers in self._answers(batch, steps, place):
                        found.take_in(place, moves, answers)
                    found.lengths[place] += steps.abs().sum(1).double().cpu() * float(self._directions[place].norm())
                    bar.advance(len(batch))
        return found

    def _choice(
        self, values: Float[Tensor, "latents doses"], most: int, classes: int | None, advance: Callable[[int], None]
    ) -> Choice:
        """What the furthest dose of each latent moves most, and the largest that each random direction moves."""
        plan = self.plan
        far = (values - (1.0 if plan.op == "scale" else 0.0)).abs().argmax(1)
        sums: Tensor | None = None
        for batch in self._batches():
            own = batch.answers
            if sums is None:
                if classes is not None and own.shape[1] != classes:
                    raise InputError(f"there are {classes} names; the model answers with {own.shape[1]} classes")
                shape = (len(plan.latents), 1 + plan.controls, own.shape[1])
                if np.prod(shape, dtype=np.int64) > _MOST_SUMS:
                    raise InputError(
                        f"{shape[0]} latents, {plan.controls} random directions and {shape[2]:,} classes make more "
                        "sums than fit; give fewer latents at a time"
                    )
                sums = torch.zeros(shape, dtype=torch.float64)
            codes = batch.codes()[:, self._index]
            before = own.softmax(1).sum(0)
            for place in range(len(plan.latents)):
                steps = self._steps(batch, codes, values[place, far[place]].view(1), place)
                for moves, answers in self._answers(batch, steps, place):
                    sums[place, moves] += answers.double().softmax(2).sum(1) - before
                advance(len(batch))
        assert sums is not None
        changes = (sums / self.examples.n).abs()
        chosen = changes[:, 0].topk(min(most, changes.shape[2]), dim=1).indices
        return Choice(chosen, far, np.percentile(changes[:, 1:].amax(2).numpy(), 97.5, axis=1))

    def _batches(self) -> Iterator[Opened]:
        plan = self.plan
        for inputs in self.examples.batches(self.batch_size):
            yield Opened(self.rest.on(inputs), self.sae, plan.rows, plan.at, plan.layout)

    def _steps(
        self, batch: Opened, codes: Float[Tensor, "m latents"], values: Float[Tensor, " d"], place: int
    ) -> Float[Tensor, "d m"]:
        """How many times the latent's direction each dose adds to each row."""
        moved = self.plan.moves(batch.position, batch.example).to(codes.device)
        return steps_of(self.plan.op, values.to(codes), codes[:, place]) * (moved * batch.scales)

    def _answers(
        self, batch: Opened, steps: Float[Tensor, "d m"], place: int
    ) -> Iterator[tuple[Int64[Tensor, " v"], Float[Tensor, "v b c"]]]:
        """Numbers of moves and the answers to them: at each dose, then at each dose along each random direction."""
        direction, controls = self._directions[place], self.plan.controls
        along = torch.cat([steps, (steps * direction.norm()).repeat_interleave(controls, 0)])
        at_once = max(1, _ANSWERS_AT_ONCE // batch.answers.numel())
        for moves in torch.arange(len(along)).split(at_once):
            random = (moves - len(steps)) % controls
            chosen = torch.where((moves < len(steps)).unsqueeze(1), direction.cpu(), self._random[random])
            yield moves, batch.answers_to_moves(along[moves.to(along.device)], chosen.to(along))

    @cached_property
    def _index(self) -> Int64[Tensor, " latents"]:
        return torch.tensor(self.plan.latents, device=self.sae.device)

    @cached_property
    def _directions(self) -> Float[Tensor, "latents d_in"]:
        return self.sae.directions()[self._index]

    @cached_property
    def _random(self) -> Float[Tensor, "controls d_in"]:
        return random_directions(self.plan.controls, self.sae.d_in, self.seed).to(self._directions.dtype)
