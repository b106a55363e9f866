"""The stage: latents at several doses, and what the model answers and a decoder draws at each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.datasets.base import Dataset
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side, evaluating
from unweave.models.rest import RestOfNetwork
from unweave.models.rows import RowMeaning
from unweave.steer.context import hook_point
from unweave.steer.curves import Collected, write_curves
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
from unweave.steer.moves import Opened
from unweave.steer.response import KIND, Response
from unweave.store.artifact import Identity, existing, writing
from unweave.store.layout import Layout
from unweave.store.scratch import Scratch

Decoder = nn.Module | Callable[[Tensor], Tensor]
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@torch.no_grad()
def dose_response(
    model: nn.Module,
    sae: Dictionary,
    examples: Tensor | Dataset,
    *,
    latents: Sequence[int],
    doses: Sequence[float] = DOSES,
    op: DoseOp = "set",
    unit: DoseUnit = "max",
    at: str | None = None,
    decoder: Decoder | None = None,
    labels: Tensor | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    rows: RowMeaning = "flatten",
    side: Side = "output",
    layout: Layout | None = None,
    positions: Sequence[int] | None = None,
    controls: int = 20,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 512,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Response:
    """Give each latent several doses, and measure what the model answers then.

    At each dose the code f of the latent becomes f' on every row, and the row x + (f' − f) w: the rest of it, what the
    dictionary misses included, stays as it was. The control moves each row as far, (f' − f)‖w‖, along random
    directions. Bands are over examples, of the change example by example.

    Args:
        model: a classifier: logits [b, classes].
        sae: a dictionary of the hook point's rows.
        examples: a tensor [n, …] or a data set.
        latents: which latents, one at a time.
        doses: how much; what a dose is, `op` and `unit` say.
        op: the code becomes the dose (`set`), grows by it (`add`), or is multiplied by it (`scale`).
        unit: doses are multiples of the latent's largest code on these examples (`max`), or as they are (`value`).
        at: dotted name of the module; by default the dictionary's own.
        decoder: rows [n, d_in] to images [n, c, h, w] in [0, 1]; draws the mean picture at each dose.
        labels: class of each example; a data set has its own, which count where the class names are its own too.
        class_names: names of the classes.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        layout: how positions lie in an example, as it was captured; needed where some tokens give no rows.
        positions: rows that are moved, for rows by position: `layout.position(row, column)` names a place, numbers
            below 0 count from the end of each example; by default all.
        controls: random directions; the same ones for every latent and dose.
        resamples: bootstrap draws behind each band.
        seed: decides both.
        batch_size: examples a pass.
        out: folder of the artifact; temporary by default, gone with the returned object.
        overwrite: replace another artifact in `out`.

    Raises:
        InputError: an unknown hook point or latent, rows of another width, a latent that never fires with doses in
            multiples of its largest code, or a decoder that does not fit.
    """
    given = Examples(examples, labels, class_names, model)
    rest = RestOfNetwork(model, hook_point(model, sae, at), side=side)
    check_doses(op, unit, doses, latents, controls, resamples)
    names = None if given.class_names is None else tuple(given.class_names)
    plan = Plan(
        at=rest.name, latents=tuple(check_latent(latent, sae.d_sae) for latent in latents),
        doses=tuple(map(float, doses)), op=op, unit="factor" if op == "scale" else unit, rows=rows, side=side,
        controls=controls, resamples=resamples, class_names=names, layout=layout,
        positions=None if positions is None else tuple(positions),
    )  # fmt: skip
    inputs = {"model": hash_module(model), "dictionary": hash_module(sae), "examples": given.id}
    inputs["decoder"] = _decoder_id(decoder, kept=out is not None)
    identity = Identity(kind=KIND, config=plan.as_json(), inputs=inputs, seed=seed)
    scratch = Scratch() if out is None else None
    folder = scratch.path / "response" if scratch is not None else Path(str(out))
    if not existing(folder, identity, overwrite=overwrite):
        threads = rest.threads_for(next(given.batches(batch_size)))
        with threads, writing(folder, identity, overwrite=overwrite) as draft:
            collected = _measure(rest, sae, given, plan, decoder, seed, batch_size)
            write_curves(draft, collected, given.labels, resamples=resamples, seed=seed)
            draft.details.update(hook_name=rest.name, examples=given.n, shortcut=rest.shortcut)
    return Response(folder, scratch)


def _decoder_id(decoder: Decoder | None, *, kept: bool) -> str:
    if decoder is None:
        return ""
    if isinstance(decoder, nn.Module):
        return hash_module(decoder)
    if kept:
        raise InputError(
            "a decoder whose pictures are kept must be a torch.nn.Module: its weights belong to the result"
        )
    return "a function"


def _measure(
    rest: RestOfNetwork,
    sae: Dictionary,
    examples: Examples,
    plan: Plan,
    decoder: Decoder | None,
    seed: int,
    batch_size: int,
) -> Collected:
    values = dose_values(plan, largest_codes(rest, sae, examples, plan, batch_size))
    index = torch.tensor(plan.latents, device=sae.device)
    directions = sae.directions()[index]
    random = random_directions(plan.controls, sae.d_in, seed).to(directions)
    collected: Collected | None = None
    with progress("Dosing", total=examples.n * len(plan.latents), unit="examples") as bar:
        for inputs in examples.batches(batch_size):
            batch = Opened(rest.on(inputs), sae, plan.rows, rest.name, plan.layout)
            moved_rows = plan.moves(batch.position, batch.example).to(sae.device) * batch.scales
            if collected is None:
                names = examples.names(batch.answers.shape[1])
                collected = Collected(plan.latents, plan.doses, values, plan.controls, examples.n, names)
            collected.open(batch.answers, None if decoder is None else _draw(decoder, batch, batch.rows))
            codes = batch.codes()[:, index]
            for place, direction in enumerate(directions):
                steps = steps_of(plan.op, values[place].to(codes), codes[:, place]) * moved_rows
                lengths = steps * direction.norm()
                answers = batch.answers_to_moves(
                    torch.cat([steps, lengths.repeat_interleave(plan.controls, 0)]),
                    torch.cat([direction.expand(len(steps), -1), random.repeat(len(steps), 1)]),
                )
                collected.take_in(place, answers, lengths.abs())
                if decoder is not None:
                    moved = (batch.rows + step.unsqueeze(1) * direction for step in steps)
                    collected.take_in_pictures(place, [_draw(decoder, batch, rows) for rows in moved])
                bar.advance(len(batch))
    assert collected is not None
    return collected


def _draw(decoder: Decoder, batch: Opened, rows: Float[Tensor, "m d_in"]) -> Float[Tensor, "b c h w"]:
    if batch.per_example != 1:
        raise InputError(
            f"an example has {batch.per_example} rows at the hook point; a decoder draws one picture of one row"
        )
    if isinstance(decoder, nn.Module):
        with evaluating(decoder):
            pictures = decoder(rows.to(_device(decoder, rows)))
    else:
        pictures = decoder(rows)
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or len(pictures) != len(rows):
        shape = list(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise InputError(f"the decoder gives {shape} for {len(rows)} rows; pictures are [n, c, h, w]")
    return pictures


def _device(decoder: nn.Module, rows: Tensor) -> torch.device:
    return next((tensor.device for tensor in (*decoder.parameters(), *decoder.buffers())), rows.device)
