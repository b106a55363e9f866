"""The recipe `instances`: do the dictionaries of different instances hold the same latents?"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from unweave.analyze import analyze
from unweave.compare.latents import THRESHOLDS, Replication, compare_codes
from unweave.core.codes import Codes
from unweave.core.progress import progress, silenced
from unweave.core.seeds import derive_seed, numpy_generator
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.random_directions import RandomDirections
from unweave.figures.comparison import replication
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.metrics.similarity import Cross, matched_correlations, rotation
from unweave.metrics.similarity_latents import Matched, live_latents, matched_directions
from unweave.metrics.sparsity import l0
from unweave.recipes.base import Run
from unweave.recipes.instances.networks import Instances, Material
from unweave.store.activations import Activations
from unweave.train import train

MARKS = (0.7, 0.8, 0.9)
_NULL_PERMUTATIONS = 49
_LIVE_SHARE = 1e-3
_WORDS = {
    "dictionary": "latents",
    "untrained": "latents of untrained networks",
    "random": "random directions, same rule",
    "neurons": "raw units",
    "shuffled": "latents, rows shuffled",
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """A dictionary of one instance, and its codes of all test images."""

    dictionary: Dictionary
    codes: Codes
    explained_variance: float

    @property
    def directions(self) -> Float64[np.ndarray, "live d_in"]:
        """Of the latents that live on test images."""
        live = live_latents(self.codes, _LIVE_SHARE)
        return np.asarray(self.dictionary.directions().cpu().double().numpy()[live])


@dataclass(frozen=True, eq=False)
class Latents:
    """Dictionaries by condition (`dictionary`, `untrained`, `random`) and instance, and how far they agree."""

    fitted: Mapping[str, Mapping[str, Fitted]]
    found: Mapping[str, Replication]
    neurons: list[Matched]
    directions: Mapping[str, float]


def fit_dictionaries(config: Instances, run: Run, material: Material) -> dict[str, dict[str, Fitted]]:
    """A dictionary of every instance; of every untrained one; and random directions under the same rule."""
    layer, names = config.names[0], [network.name for network in material.networks]
    fitted: dict[str, dict[str, Fitted]] = {"dictionary": {}, "untrained": {}, "random": {}}
    with progress("Training dictionaries", total=3 * len(names), unit="dictionaries") as bar:
        for kind, condition in (("dictionary", "trained"), ("untrained", "untrained"), ("random", "trained")):
            for name in names:
                rows, judged = (of[layer, name, condition] for of in (material.train_rows, material.test_rows))
                wanted = config.sae if kind != "random" else _random(fitted["dictionary"][name])
                with silenced():
                    made = _fit(config, run, wanted, rows, judged, f"{kind}-{name}")
                    if kind == "dictionary":  # for whoever looks at the run's latents later
                        out = run.place(f"atlas@{kind}-{name}")
                        analyze(made.dictionary, judged, images=material.test, seed=run.seed, out=out)
                fitted[kind][name] = made
                bar.advance()
    return fitted


def _random(like: Fitted) -> DictionaryConfig:
    """As many random directions, of which as many are active in a row."""
    return RandomDirections(d_sae=like.dictionary.d_sae, k=max(1, round(l0(like.codes))))


def _fit(
    config: Instances, run: Run, wanted: DictionaryConfig, rows: Activations, judged: Activations, name: str
) -> Fitted:
    seed = derive_seed(run.seed, "dictionary", name)
    out = run.place(f"sae@{name}")
    dictionary = train(rows, wanted, config.training, seed=seed, out=out, runtime=run.runtime)
    sums, codes = ReconstructionSums(judged.d_in), []
    for block in judged.blocks(8192):
        own = block.to(dictionary.device)
        dense = dictionary.encode(own)
        sums.add(block, dictionary.reconstruct(dense, own))
        codes.append(Codes.from_dense(dense))
    return Fitted(dictionary, Codes.concatenate(codes, dictionary.d_sae), sums.explained_variance)


def match_latents(config: Instances, run: Run, material: Material) -> Latents:
    """Train the dictionaries, match their latents by codes and by directions, and enter the numbers."""
    fitted = fit_dictionaries(config, run, material)
    found = {}
    for kind, by_name in fitted.items():
        codes = {name: one.codes for name, one in by_name.items()}
        permutations = _NULL_PERMUTATIONS if kind == "dictionary" else 0
        out = run.place(f"replication@{kind}")
        found[kind] = compare_codes(codes, permutations=permutations, seed=run.seed, out=out)
    latents = Latents(fitted, found, _neurons(config, run, material), _directions(config, run, material, fitted))
    for kind, one in found.items():
        condition = "" if kind == "dictionary" else kind
        run.record({"latents/matched_r": float(one.mean.mean()), **_shares(one)}, condition=condition)
        run.record({"latents/live": float(one.live.mean())}, condition=condition)
        every = fitted[kind].values()
        run.record({"dictionary/l0": float(np.mean([l0(f.codes) for f in every]))}, condition=condition)
        explained = float(np.mean([f.explained_variance for f in every]))
        run.record({"dictionary/explained_variance": explained}, condition=condition)
    main = found["dictionary"]
    run.record({"latents/matched_r_p": float(main.p.max())})
    run.record({"latents/matched_r": float(main.null_mean.mean()), **_shares(main, null=True)}, condition="shuffled")
    of_units = {f"latents/replicated_{100 * mark:.0f}": _unit_share(latents, mark) for mark in MARKS}
    mean = float(np.mean([one.mean for one in latents.neurons]))
    run.record({"latents/matched_r": mean, **of_units}, condition="neurons")
    for condition, value in latents.directions.items():
        run.record({"latents/direction_cosine": value}, condition="" if condition == "aligned" else condition)
    return latents


def _shares(one: Replication, *, null: bool = False) -> dict[str, float]:
    return {f"latents/replicated_{100 * mark:.0f}": one.share(mark, null=null) for mark in MARKS}


def _unit_share(latents: Latents, mark: float) -> float:
    return float(np.mean([one.share(np.array([mark]))[0] for one in latents.neurons]))


def _neurons(config: Instances, run: Run, material: Material) -> list[Matched]:
    """Raw units matched in the same way on the same images, by |r|: units have no sign."""
    layer = config.names[0]
    n = len(material.test)
    choose, measure = np.array_split(numpy_generator(run.seed, "halves").permutation(n), 2)
    matched = []
    for a, b in itertools.combinations([network.name for network in material.networks], 2):
        x, y = (material.test_rows[layer, name, "trained"].rows(0, n).float().numpy() for name in (a, b))
        r = matched_correlations(Cross.of(x[choose], y[choose]), Cross.of(x[measure], y[measure]))
        place = np.arange(len(r))
        matched.append(Matched(place, place, r, (x.shape[1], y.shape[1])))
    return matched


def _directions(
    config: Instances, run: Run, material: Material, fitted: Mapping[str, Mapping[str, Fitted]]
) -> dict[str, float]:
    """Mean cosine of directions matched after the rotation that takes one instance's activations to the other's."""
    layer = config.names[0]
    found: dict[str, list[float]] = {name: [] for name in ("aligned", "unaligned", "untrained", "rows", "random")}
    for a, b in itertools.combinations([network.name for network in material.networks], 2):
        generator = numpy_generator(run.seed, "directions", a, b)
        for kind, condition in (("dictionary", "trained"), ("untrained", "untrained")):
            x, y = (_all(material.train_rows[layer, name, condition]) for name in (a, b))
            turn = rotation(Cross.of(x, y))
            one, other = (fitted[kind][name].directions for name in (a, b))
            found["aligned" if kind == "dictionary" else kind].append(matched_directions(one @ turn, other).mean)
            if kind == "dictionary":
                found["unaligned"].append(matched_directions(one, other).mean)
                drawn = [generator.choice(len(v), len(d), replace=False) for v, d in ((x, one), (y, other))]
                rows = ((v - v.mean(0))[chosen] for v, chosen in zip((x, y), drawn, strict=True))
                found["rows"].append(matched_directions(next(rows) @ turn, next(rows)).mean)
                noise = (generator.normal(size=d.shape) for d in (one, other))
                found["random"].append(matched_directions(next(noise), next(noise)).mean)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _all(rows: Activations) -> np.ndarray:
    return np.asarray(rows.rows(0, rows.n).to(torch.float32).numpy())


def tell_latents(config: Instances, run: Run, material: Material, latents: Latents) -> None:
    """Shares that replicate, beside their controls."""
    metrics, layer = run.metrics, config.names[0]
    pairs = len(latents.neurons)
    run.section(
        "Do their dictionaries hold the same latents?",
        f"A dictionary was trained on {layer} of each instance. Latents of two dictionaries are matched one to one by "
        "the correlation of their codes on half of the test images; the other half says how well the partners agree.",
    )
    conditions = ["dictionary", "neurons", "untrained", "random", "shuffled"]
    rows = []
    for kind in conditions:
        suffix = "" if kind == "dictionary" else f"@{kind}"
        shares = [f"{100 * metrics[f'latents/replicated_{100 * mark:.0f}{suffix}']:.1f} %" for mark in MARKS]
        explained, live = (metrics.get(f"{name}{suffix}") for name in ("dictionary/explained_variance", "latents/live"))
        beside = ["" if live is None else f"{live:.0f}", "" if explained is None else f"{100 * explained:.1f} %"]
        rows.append([_WORDS[kind], f"{metrics[f'latents/matched_r{suffix}']:.3f}", *shares, *beside])
    heads = ["", "mean r", *[f"r ≥ {mark:g}" for mark in MARKS], "live", "explained"]
    p = metrics["latents/matched_r_p"]
    note = (
        f"Means over {pairs} pairs, {len(material.test):,} test images. Live: fires on {100 * _LIVE_SHARE:g} % of them "
        f"or more; shares are of live latents. Shuffled: {_NULL_PERMUTATIONS} orders of one side's rows, among which "
        f"mean r has p {p:.2g} at most. Raw units are matched by |r|."
    )
    run.table(heads, rows, note=note, main=1)
    main = latents.found["dictionary"]
    curves = {kind: latents.found[kind].shares for kind in ("dictionary", "untrained", "random")}
    curves["neurons"] = np.stack([one.share(THRESHOLDS) for one in latents.neurons])
    curves["shuffled"] = main.null_shares
    caption = (
        f"Share of live latents of two dictionaries with a partner whose codes correlate at least so much on held-out "
        f"images; mean (line) and range (band) of {pairs} pairs. Raw units: the layer's own units, by |r|. Random "
        "directions: as many, with as many active in a row."
    )
    run.show("replication", replication(THRESHOLDS, curves, marks=MARKS), caption)
    cosines = [
        ["latents, after the rotation that aligns the activations", f"{metrics['latents/direction_cosine']:.3f}"],
        ["latents, as they are", f"{metrics['latents/direction_cosine@unaligned']:.3f}"],
        ["latents of untrained networks, aligned", f"{metrics['latents/direction_cosine@untrained']:.3f}"],
        ["rows of activations drawn at random, aligned", f"{metrics['latents/direction_cosine@rows']:.3f}"],
        ["random directions", f"{metrics['latents/direction_cosine@random']:.3f}"],
    ]
    note = "Mean cosine of directions matched one to one, as many on each side as the dictionaries have live latents."
    run.table(["Matched by decoder directions", "mean cosine"], cosines, note=note, main=1)


def latent_findings(run: Run) -> list[str]:
    """What the numbers say of the latents."""
    metrics = run.metrics
    ours = metrics["latents/replicated_70"]
    beside = {kind: metrics[f"latents/replicated_70@{kind}"] for kind in ("neurons", "untrained", "random", "shuffled")}
    listed = ", ".join(f"{_WORDS[kind]} {100 * share:.0f} %" for kind, share in beside.items())
    best = max(beside, key=lambda kind: beside[kind])
    verdict = "more than any control" if ours > beside[best] else f"no more than {_WORDS[best]}"
    said = [
        f"{100 * ours:.0f} % of a dictionary's live latents have a partner at r ≥ 0.7 in the dictionary of another "
        f"instance, {verdict} ({listed})."
    ]
    aligned = metrics["latents/direction_cosine"]
    against = {kind: metrics[f"latents/direction_cosine@{kind}"] for kind in ("rows", "untrained", "random")}
    higher = [kind for kind, value in against.items() if value >= aligned]
    numbers = (
        f"rows of activations drawn at random {against['rows']:.2f}, untrained networks {against['untrained']:.2f}, "
        f"random directions {against['random']:.2f}"
    )
    verdict = "so directions add nothing to that" if higher else "above every control"
    by_direction = f"By direction, after aligning the layers, matched latents have a cosine of {aligned:.2f}"
    return [*said, f"{by_direction} ({numbers}): {verdict}."]
