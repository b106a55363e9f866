"""What moving latents does to the answers, on the page of a layer: logits of classes, next tokens, or vectors."""

from unweave.figures.contexts import shown
from unweave.recipes.base import Run
from unweave.recipes.layer.study import few
from unweave.recipes.layer.telling import Layer
from unweave.steer import MovedAnswers, dose_response, moved_answers
from unweave.steer.doses import SilentLatentsError

_TITLE = "What does moving a latent do?"
_DOSES = (0.0, 0.5, 1.0, 2.0)


def tell_moves(found: Layer, run: Run) -> None:
    """What moving a few latents does to the answers, beside random directions."""
    subject = found.subject
    if not found.config.moved:
        return
    if not len(found.live):
        run.section(_TITLE, "Not asked: no latent is live.")
        return
    try:
        (_tell_answers if subject.names is None or subject.texts else _tell_classes)(found, run)
    except SilentLatentsError as error:  # a latent of the whole store may be silent on these few examples
        run.artifacts.pop("steering", None)
        run.section(_TITLE, f"Not asked: {error}")


def _tell_classes(found: Layer, run: Run) -> None:
    """The logit that each latent moves most."""
    subject, config = found.subject, found.config
    examples = few(subject, config, run.seed)
    response = dose_response(
        subject.module,
        found.sae,
        examples,
        latents=found.best(config.moved),
        at=config.at,
        rows=config.rows,
        side=config.side,
        layout=found.rows.layout,
        class_names=subject.names,
        labels=examples.labels if subject.judged else None,
        doses=_DOSES,
        seed=run.seed,
        batch_size=64,
        out=run.place("steering"),
    )
    effects = response.strongest()
    run.section(
        _TITLE,
        "A latent is set to multiples of its largest value at all places of each example, and the rest of the network "
        "goes on from there; what the dictionary misses stays. The control moves rows as far along random directions.",
    )
    run.table(
        ["latent", "moves most", "change of its logit", "95 % band", "random directions", "beyond them"],
        [
            [
                str(one.latent),
                one.class_name,
                f"{one.change:+.2f}",
                f"{one.band[0]:+.2f} to {one.band[1]:+.2f}",
                f"{one.control[0]:+.2f} to {one.control[1]:+.2f}",
                "yes" if one.beyond else "no",
            ]
            for one in effects
        ],
        note=f"At the dose that moves rows furthest; means over {response.n:,} held-out examples.",
        main=2,
    )
    first = effects[0].latent
    run.show("dose", response.figure(first), f"Latent {first}. Grey: the middle 95 % of random directions.")
    beyond = sum(one.beyond for one in effects)
    run.record({"steering/latents": float(len(effects)), "steering/beyond_random": float(beyond)})
    run.findings.append(
        f"Moved to twice its largest value at all places, {beyond} of {len(effects)} latents change a logit beyond "
        "what moves of the same length along random directions do."
    )


def _tell_answers(found: Layer, run: Run) -> None:
    """The same of texts, and of answers that are no choice between classes."""
    subject, config = found.subject, found.config
    moved = moved_answers(
        subject.module,
        found.sae,
        few(subject, config, run.seed),
        latents=found.best(config.moved),
        at=config.at,
        names=subject.answers.names,
        rows=config.rows,
        side=config.side,
        layout=found.rows.layout,
        doses=_DOSES,
        seed=run.seed,
        out=run.place("steering"),
    )
    what = "the divergence of its probabilities in nats" if moved.logits else "1 − cosine with the answer as it was"
    followed = (
        " Of all classes or tokens the one whose mean probability moves most is named; because it is the most moved of "
        "many, it is held against the most that a random direction moves any."
        if moved.logits
        else ""
    )
    run.section(
        _TITLE,
        "A latent is set to multiples of its largest value in all rows of each example, and the rest of the network "
        "goes on from there; what the dictionary misses stays. The control moves rows as far along random directions. "
        f"How far an answer moves is {what}.{followed}",
    )
    _tabulate(moved, run)
    beyond = sum(one.beyond for one in moved.strongest())
    run.record({"steering/latents": float(len(moved.latents)), "steering/beyond_random": float(beyond)})
    run.findings.append(
        f"Moved to twice its largest value in all rows, {beyond} of {len(moved.latents)} latents move the answers "
        "further than moves of the same length along random directions do."
    )
    for latent in moved.latents:
        run.show(f"moved-{latent}", moved.figure(latent), f"Latent {latent}, on {moved.n:,} held-out examples.")


def _tabulate(moved: MovedAnswers, run: Run) -> None:
    """A line for each latent, and one for what it moves most."""
    effects = moved.strongest()
    note = f"At the dose that moves rows furthest; means over {moved.n:,} held-out examples."
    run.table(
        ["latent", "answers move by", "95 % band", "random directions", "beyond them"],
        [
            [
                str(one.latent),
                f"{one.change:.3g}",
                *(f"{low:.3g} to {high:.3g}" for low, high in (one.band, one.control)),
                "yes" if one.beyond else "no",
            ]
            for one in effects
        ],
        note=note,
        main=1,
    )
    if moved.logits:
        run.table(
            ["latent", "moves most", "its probability", "random directions, any"],
            [
                [
                    str(one.latent),
                    shown(one.answer),
                    f"{100 * one.probability:+.2f}",
                    f"± {100 * one.by_chance:.2f}",
                ]
                for one in effects
            ],
            note="Change of the mean probability in points of %.",
            main=2,
        )
