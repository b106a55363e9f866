"""What the page of a layer tells: the rows, where latents fire, what the model keeps, what moving does, in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from unweave.analyze import Atlas
from unweave.core.seeds import numpy_generator
from unweave.dictionaries.base import Dictionary
from unweave.figures.kept import kept_figure
from unweave.metrics.localisation import dealt_again, localisation
from unweave.models.adopted import Adopted
from unweave.recipes.answers import Answers
from unweave.recipes.base import Run
from unweave.recipes.classifier import findings
from unweave.recipes.layer.study import LayerStudy, Subject, few
from unweave.steer.fidelity import Fidelity, Kept, fidelity
from unweave.store.activations import Activations

_MOST_MAPPED = 200
_HARDLY = 0.02
_UNTOUCHED = 0.999
_LEAST_PLACES, _LEAST_MAPS = 4, 10  # fewer have no shape to speak of
_CALLED = {"neurons": "raw neurons", "pca": "PCA", "random": "random directions", "untrained": "the untrained network"}


@dataclass(frozen=True, eq=False)
class Layer:
    """What the stages left.

    Attributes:
        config: what was asked.
        subject: of which network.
        rows: the held-out ones.
        sae: the dictionary.
        atlas: of it on these rows.
        beside: the controls on the same rows, by name.
    """

    config: LayerStudy
    subject: Subject
    rows: Activations
    sae: Dictionary
    atlas: Atlas
    beside: Mapping[str, Dictionary]

    @property
    def live(self) -> np.ndarray:
        """Latents that fire often enough to be judged."""
        return np.flatnonzero(np.isin(self.atlas.latents["status"].to_pylist(), ["live", "dense"]))

    def best(self, most: int) -> list[int]:
        """Live latents that tell most of the class; where there are no classes, with the largest values."""
        measure = "mutual_information" if self.subject.labelled else "max"
        order = np.argsort(-self.atlas.column(measure)[self.live], kind="stable")
        return [int(latent) for latent in self.live[order][:most]]


def tell_subject(subject: Subject, rows: Activations, run: Run) -> None:
    """What was taken apart."""
    layout = rows.layout
    run.record({"layer/rows_train": float(rows.n), "layer/width": float(rows.d_in)})
    what = "texts" if subject.texts else "images"
    meaning = f"{rows.n / max(len(subject.train), 1):.3g} {'tokens' if subject.texts else 'rows'} an example"
    if layout is not None and layout.kind == "grid":
        meaning = f"a grid of {layout.height} × {layout.width} places"
        if layout.prefix:
            left = "left out" if layout.prefix_dropped else "kept as rows"
            meaning += f" after {layout.prefix} other token{'s' if layout.prefix > 1 else ''} ({left})"
        if layout.area != (0.0, 0.0, 1.0, 1.0):
            top, left_side, bottom, right = layout.area
            meaning += (
                f", over the part of the image from {100 * top:.0f} to {100 * bottom:.0f} % of its height and "
                f"{100 * left_side:.0f} to {100 * right:.0f} % of its width"
            )
    answers = _said_of_answers(subject.answers)
    facts = [
        ("network", f"{own_name(subject.module)}, {answers}"),
        ("layer", f"{rows.hook_name}, rows of width {rows.d_in}"),
        ("rows", meaning),
        ("examples", f"{len(subject.train):,} {what} to learn from, {len(subject.test):,} held out"),
    ]
    run.section("What is looked at", "The dictionary is judged on rows that it did not learn from.")
    run.table(["", ""], [list(fact) for fact in facts])


def _said_of_answers(answers: Answers) -> str:
    """What they are, in words."""
    said = {"classes": "{} classes", "tokens": "the next of {} tokens", "vectors": "vectors of {} numbers for answers"}
    return said[answers.kind].format(f"{answers.width:,}")


def own_name(network: nn.Module) -> str:
    """What a network is called where it comes from: its class, and its architecture where its library names one."""
    inner = network.inner if isinstance(network, Adopted) else network
    name = type(inner).__name__
    for said in (getattr(inner, "pretrained_cfg", None), getattr(inner, "default_cfg", None)):  # as timm has it
        if isinstance(said, Mapping) and isinstance(said.get("architecture"), str):
            return f"{said['architecture']} ({name})"
    return name


def tell_places(found: Layer, run: Run) -> None:
    """Whether what a latent fires on lies in one place, beside its values dealt out again."""
    layout, atlas = found.atlas.layout, found.atlas
    if layout is None or layout.kind != "grid" or min(layout.height, layout.width) < 2 or not len(found.live):
        return
    chosen = numpy_generator(run.seed, "latents with maps").permutation(found.live)[:_MOST_MAPPED]
    maps = []
    for latent in np.sort(chosen).tolist():
        heat = np.nan_to_num(atlas.places_of(latent, most=1)[0].heat(layout))
        if (heat > 0).sum() >= _LEAST_PLACES:
            maps.append(heat)
    if len(maps) < _LEAST_MAPS:
        return
    stacked = np.stack(maps).astype(np.float64)
    everywhere = np.ones(stacked.shape[1:], bool)
    generator = numpy_generator(run.seed, "maps dealt out again")
    shuffled = dealt_again(stacked, everywhere, generator)
    cells = min(4, *stacked.shape[1:])
    own, null = (localisation(some, cells=cells).largest for some in (stacked, shuffled))
    run.record({"places/largest_part": float(own.mean()), "places/maps": float(len(maps))})
    run.record({"places/largest_part_dealt_again": float(null.mean())})
    run.findings.append(
        f"On its strongest image a latent's values hang together: the largest connected part holds "
        f"{100 * own.mean():.0f} % of the mass of the places that carry half of it, {100 * null.mean():.0f} % where "
        f"the same values are dealt out over the image at random (mean of {len(maps)} live latents). Neighbouring "
        "places see overlapping parts of the image, so some of that the network gives any direction."
        if own.mean() > null.mean()
        else f"A latent's values lie scattered over its strongest image, no more in one part "
        f"({100 * own.mean():.0f} %) than dealt out at random ({100 * null.mean():.0f} %)."
    )


def tell_splice(found: Layer, run: Run) -> None:
    """What the model keeps of its answers with a reconstruction in place of the rows, beside controls."""
    subject, config = found.subject, found.config
    examples = few(subject, config, run.seed)
    measured: dict[str, Fidelity] = {}
    for name, sae in {"dictionary": found.sae, **found.beside}.items():
        suffix = "" if name == "dictionary" else f"@{name}"
        measured[name] = fidelity(
            subject.module,
            sae,
            examples,
            at=config.at,
            rows=config.rows,
            side=config.side,
            layout=found.rows.layout,
            logits=subject.answers.kind != "vectors",
            out=run.place(f"splice{suffix}"),
        )
        run.record(measured[name].metrics, condition="" if name == "dictionary" else name)
    main = measured["dictionary"]
    kept = {**{name: one.spliced for name, one in measured.items()}, "mean row": main.mean, "zeros": main.zero}
    run.section(
        "Does the model still answer as before?",
        "Each row is replaced by its reconstruction, at all places at once, and the rest of the network goes on from "
        "there. Controls have as many active latents a row; the mean row in place of every row is what a dictionary "
        "that says nothing would leave.",
    )
    agreement = None
    if subject.answers.kind != "vectors":
        agreement = {name: one.agreement for name, one in kept.items() if one.agreement is not None}
    figure = kept_figure({name: one.explained for name, one in kept.items()}, agreement)
    run.show("splice", figure, f"What is left of the answers to {main.n:,} held-out examples.")
    run.findings.append(_said_of_splice(main, measured))
    if min(main.mean.explained, main.zero.explained) > _UNTOUCHED:
        run.findings.append(
            "Whatever stands in place of these rows, the answers stay as they are: they do not hang on them. Choose an "
            "earlier layer, or --prefix keep where the answer is read from a class token."
        )
    if main.spread < _HARDLY:
        run.findings.append(
            "The network answers nearly the same whatever it is shown (its answers differ by "
            f"{100 * main.spread:.2g} % of their length): what is kept of their variance says little here."
        )


def _said_of_splice(main: Fidelity, measured: Mapping[str, Fidelity]) -> str:
    others = {name: one.spliced for name, one in measured.items() if name != "dictionary"}
    best = max(others, key=lambda name: others[name].explained)
    control = _CALLED.get(best, best)
    if main.spliced.agreement is not None:
        own, other, mean = (100 * (one.agreement or 0.0) for one in (main.spliced, others[best], main.mean))
        return (
            f"With the reconstruction in place of the layer the model gives the same answer to {own:.0f} % of held-out "
            f"examples ({_share(main.spliced)} of the variance of its logits is kept); with the best control, "
            f"{control}, to {other:.0f} % ({_share(others[best])}), with the mean row to {mean:.0f} %."
        )
    return (
        f"With the reconstruction in place of the layer {_share(main.spliced)} of the variance of the model's answers "
        f"is kept; with the best control, {control}, {_share(others[best])}, with the mean row {_share(main.mean)}."
    )


def _share(kept: Kept) -> str:
    """In words where answers lie further from the model's own than their mean does."""
    return f"{100 * kept.explained:.0f} %" if kept.explained >= 0 else "none"


def tell_findings(found: Layer, run: Run) -> None:
    """The first sentences of the page: what the numbers allow to say, and what not."""
    said = findings(run.metrics, live_share=found.config.analysis.live_share)
    said += _said_of_untrained(run.metrics)
    said += _said_of_labels(run.metrics) if found.subject.labelled else []
    if found.config.model.kind in ("pretrained", "custom") and found.subject.untrained is None:
        said.append("The same network with a random start could not be had, or is this one: it is not beside it.")
    run.findings[:0] = said


def _said_of_untrained(metrics: Mapping[str, float]) -> list[str]:
    own, other = (metrics.get(f"dictionary/explained_variance{of}", math.nan) for of in ("", "@untrained"))
    if math.isnan(other):
        return []
    line = (
        f"The same dictionary of the same layer with random weights explains {100 * other:.1f} % of its rows' variance "
        f"(trained: {100 * own:.1f} %): how well rows are explained does not tell whether anything was learned."
    )
    bits = [metrics.get(f"labels/mutual_information_max{of}", math.nan) for of in ("", "@untrained")]
    if not any(map(math.isnan, bits)):
        line += (
            f" Its most informative latent tells {bits[1]:.3f} bits of the class, the trained network's {bits[0]:.3f}."
        )
    return [line]


def _said_of_labels(metrics: Mapping[str, float]) -> list[str]:
    own, shuffled = (metrics.get(f"labels/significant_share{of}", math.nan) for of in ("", "@misaligned"))
    if math.isnan(own) or math.isnan(shuffled):
        return []
    return [
        f"{100 * own:.0f} % of live latents tell more of the class than shuffled labels allow (q < 0.05); with labels "
        f"dealt out at random {100 * shuffled:.0f} %."
    ]
