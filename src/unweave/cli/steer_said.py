"""What `unweave steer` says and draws of what it found."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from unweave.figures.contexts import shown
from unweave.figures.files import write
from unweave.figures.kept import kept_figure
from unweave.steer import MovedAnswers, Response, Splice
from unweave.steer.fidelity import Fidelity

_TEXTS = 4
_LONGEST = 60
console = Console(highlight=False, soft_wrap=True, markup=False)


def say(found: Response | MovedAnswers, spliced: Splice | Fidelity, out: Path) -> None:
    """Print what moved and what is kept with the reconstruction, and write a figure for each latent."""
    console.print(_said_of_splice(spliced) if isinstance(spliced, Splice) else _said_of_fidelity(spliced))
    tables = [_effects(found)] if isinstance(found, Response) else [*_moved(found), *_texts(found)]
    for table in tables:
        Console(highlight=False).print(table)
    for latent in found.latents:
        write(found.figure(latent), out / "figures", f"latent-{latent}")
    write(_figure(spliced), out / "figures", "splice")
    console.print(f"Tables: {found.folder}\nFigures: {out / 'figures'}")


def _said_of_splice(found: Splice) -> str:
    return (
        f"With the reconstruction in place of the layer, accuracy is {100 * found.spliced.accuracy:.1f} % "
        f"(the model itself: {100 * found.model.accuracy:.1f} %, the mean row: {100 * found.mean.accuracy:.1f} %); "
        f"{100 * found.recovered_mean:.1f} % of the loss against the mean row is recovered, "
        f"{100 * found.recovered_zero:.1f} % against zeros."
    )


def _said_of_fidelity(found: Fidelity) -> str:
    """Where the model answers with other classes than the data's, so that no answer is right or wrong."""
    agreement = ""
    if found.spliced.agreement is not None and found.mean.agreement is not None:
        same, mean = (100 * share for share in (found.spliced.agreement, found.mean.agreement))
        agreement = f"the model gives the same answer to {same:.1f} % of examples (with the mean row: {mean:.1f} %), "
    kept, mean_kept = (  # below 0 answers lie further from the model's own than their mean does
        f"{100 * one.explained:.1f} %" if one.explained > 0 else "none" for one in (found.spliced, found.mean)
    )
    return (
        f"With the reconstruction in place of the layer {agreement}{kept} of the variance of its answers is kept "
        f"(with the mean row: {mean_kept})."
    )


def _figure(spliced: Splice | Fidelity) -> Figure:
    if isinstance(spliced, Splice):
        return spliced.figure()
    kept = {"dictionary": spliced.spliced, "mean row": spliced.mean, "zeros": spliced.zero}
    agreement = {name: one.agreement for name, one in kept.items() if one.agreement is not None}
    return kept_figure({name: one.explained for name, one in kept.items()}, agreement or None)


def _table(headings: tuple[str, ...], words: tuple[str, ...], caption: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    table.caption, table.caption_justify = caption, "left"
    return table


def _effects(found: Response) -> Table:
    """For each latent the class that it moves most."""
    table = _table(
        ("latent", "dose", "class", "logit", "95 % band", "random", ""),
        ("class",),
        f"logit: change of its mean over {found.n:,} examples, with the bootstrap band of the mean; random: middle "
        "95 % of moves of the same length along random directions",
    )
    for effect in found.strongest():
        low, high = effect.band
        below, above = effect.control
        table.add_row(
            str(effect.latent),
            f"{effect.dose:g}",
            effect.class_name,
            f"{effect.change:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            f"{below:+.2f} to {above:+.2f}",
            "beyond" if effect.beyond else "within",
        )
    return table


def _moved(found: MovedAnswers) -> list[Table]:
    """For each latent how far answers move, and the class or token whose probability moves most."""
    unit = "nats of divergence" if found.logits else "1 - cosine"
    first = _table(
        ("latent", "dose", "answers move by", "95 % band", "random", ""),
        (),
        f"mean over {found.n:,} examples, in {unit}; random: middle 95 % of moves of the same length along random "
        "directions",
    )
    second = _table(
        ("latent", "moves most", "its probability", "random, any"),
        ("moves most",),
        "in points of %; random, any: the most that random directions move the probability of any class or token",
    )
    for one in found.strongest():
        ends = [f"{low:.2g} to {high:.2g}" for low, high in (one.band, one.control)]
        beyond = "beyond" if one.beyond else "within"
        first.add_row(str(one.latent), f"{one.dose:g}", f"{one.change:.3g}", *ends, beyond)
        points = f"{100 * one.probability:+.2f}"
        second.add_row(str(one.latent), shown(one.answer)[:24], points, f"{100 * one.by_chance:.2f}")
    return [first, second] if found.logits else [first]


def _texts(found: MovedAnswers) -> list[Table]:
    """For each latent a few texts, the answer before and after."""
    tables = []
    for latent in found.latents:
        texts = found.texts_of(latent)[:_TEXTS]
        if not texts:
            continue
        headings = ("text", "moved", "before", "after") if found.logits else ("text", "moved")
        title = f"latent {latent}: texts on which it is strongest, before and at the furthest dose"
        table = _table(headings, ("text", "before", "after"), title)
        for one in texts:
            text = " ".join(shown(token) for token in one.tokens)
            text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
            table.add_row(text, f"{one.change:.3g}", *((one.before, one.after) if found.logits else ()))
        tables.append(table)
    return tables
