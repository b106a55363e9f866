"""Two known sources, mixed: does a dictionary take them apart?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from unweave.core.errors import InputError
from unweave.core.seeds import derive_seed, numpy_generator
from unweave.datasets.rows import KnownRows, RowsConfig
from unweave.datasets.waves import Waves
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.gelu import GELU
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.recipes.base import Run, recipe
from unweave.recipes.mixtures.page import write_page
from unweave.recipes.mixtures.parts import (
    Scored,
    classical,
    information,
    noise,
    of_dictionaries,
    scored,
    shifted,
    untrained,
)
from unweave.stats.spread import Spread
from unweave.train import Job, Training, train_several

_MOST_SOURCES = 4
_MUCH = 0.3
_OUT_OF_STEP = "to be as smooth and periodic as the sources already goes a long way"

# The notebook's mean of |latents| over rows and its 20 latents is a twentieth of their sum, which `weight` multiplies.
_NOTEBOOK = GELU(
    d_sae=20,
    weight=0.05,
    bend=1.0,
    bend_unit="one",
    threshold=0.0,
    reconstruction="mean",
    init="torch",
    b_dec="zero",
    decoder_norm="free",
)
_DECORRELATED = replace(_NOTEBOOK, penalty="decorrelation", weight=0.1)
_FULL_BATCH = Training(
    epochs=600,
    batch_size=3000,
    learning_rate=7e-4,
    betas=(0.9, 0.999),
    schedule="constant",
    shuffle=False,
    scale_inputs=False,
)


@dataclass(frozen=True, kw_only=True)
class Mixtures:
    """Known sources, and dictionaries of their mixtures."""

    data: RowsConfig = field(default_factory=Waves)
    "rows of which the sources are known, up to four of them"
    sae: DictionaryConfig = _NOTEBOOK
    "the dictionary"
    decorrelated: DictionaryConfig = _DECORRELATED
    "another one beside it: as published, with a decorrelation penalty in the place of L1"
    training: Training = _FULL_BATCH
    "how both are trained"
    dictionaries: int = 5
    "dictionaries of each, from different seeds"
    held_out: bool = True
    "judge on rows between those that training sees; off: on the same"

    def __post_init__(self) -> None:
        if self.dictionaries < 2:
            raise InputError(
                f"dictionaries must be at least 2, or nothing can be said of seeds; got {self.dictionaries}"
            )


PUBLISHED = Mixtures(dictionaries=10, held_out=False)


@recipe("mixtures", default=Mixtures(), published=PUBLISHED)
def mixtures(config: Mixtures, run: Run) -> None:
    """Can a dictionary recover known sources from their mixtures, and better than before it was trained?"""
    data = config.data.make(seed=run.seed)
    judged = config.data.make(seed=run.seed, split="test") if config.held_out else data
    if (count := data.sources.shape[1]) > _MOST_SOURCES:
        raise InputError(
            f"mixtures shows up to {_MOST_SOURCES} sources, the data have {count}; `unweave bench recovery` is for many"
        )
    seeds = [derive_seed(run.seed, "mixtures", number) for number in range(config.dictionaries)]
    kinds = {"": config.sae, "decorrelated": config.decorrelated}
    trained = _train(config, kinds, data, seeds, run)
    found = _score(config, trained, data, judged, seeds, run.seed)
    for condition, of_condition in found.items():
        run.record(of_condition.metrics(), condition=condition)
    for condition, dictionaries in trained.items():
        run.record(_reconstruction(dictionaries, judged), condition=condition)
    _record_data(judged, run)
    before = found["untrained"].matched.mean(1)
    gains = {name: Spread.of((found[name].matched.mean(1) - before).tolist()) for name in kinds}
    for condition, gain in gains.items():
        ends = {"recovery/gain": gain.mean, "recovery/gain_low": gain.low, "recovery/gain_high": gain.high}
        run.record(ends, condition=condition)
    run.findings += findings(run.metrics, found, gains)
    histories = {name: [dictionary.history for dictionary in of_kind] for name, of_kind in trained.items()}
    write_page(run, judged, found, histories, judged_on="held-out rows" if config.held_out else "training rows")


def _train(
    config: Mixtures, kinds: Mapping[str, DictionaryConfig], data: KnownRows, seeds: Sequence[int], run: Run
) -> dict[str, list[Dictionary]]:
    """Every kind under every seed, side by side."""
    jobs = [
        Job(
            dictionary=kind,
            training=config.training,
            seed=seed,
            out=run.place(f"{name or 'sae'},number={number}"),
        )
        for name, kind in kinds.items()
        for number, seed in enumerate(seeds)
    ]
    # Steps this small spend their time in Python, where threads only wait for each other: one is twice as fast as two.
    outcomes = train_several(data.rows, jobs, runtime=replace(run.runtime, threads=1))
    for outcome in outcomes:
        if isinstance(outcome, InputError):
            raise outcome
    made = [outcome for outcome in outcomes if isinstance(outcome, Dictionary)]
    return {name: made[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(kinds)}


def _score(
    config: Mixtures,
    trained: Mapping[str, Sequence[Dictionary]],
    data: KnownRows,
    judged: KnownRows,
    seeds: Sequence[int],
    seed: int,
) -> dict[str, Scored]:
    """Dictionaries and everything that they are compared with, by condition."""
    sources = judged.sources.double().numpy()
    found = {name: of_dictionaries(sources, dictionaries, judged.rows) for name, dictionaries in trained.items()}
    starts = [untrained(config.sae, data.rows, one) for one in seeds]
    found["untrained"] = of_dictionaries(sources, starts, judged.rows)
    beside = {**classical(data, judged, seeds), "raw": [judged.rows.double().numpy()]}
    signals = found[""].signals
    beside["shifted"] = shifted(signals, seed)
    beside["noise"] = noise(len(sources), signals[0].shape[1], len(seeds), seed)
    found.update({name: scored(sources, one, [None] * len(one)) for name, one in beside.items()})
    return found


def _reconstruction(dictionaries: Sequence[Dictionary], judged: KnownRows) -> dict[str, float]:
    """Means over dictionaries of squared error an entry, explained variance and L0."""
    errors, explained, active = [], [], []
    for dictionary in dictionaries:
        own = judged.rows.to(dictionary.device)
        codes = dictionary.encode(own)
        sums = ReconstructionSums(judged.rows.shape[1])
        sums.add(judged.rows, dictionary.reconstruct(codes, own))
        errors.append(sums.sum_squares / judged.rows.shape[1])
        explained.append(sums.explained_variance)
        active.append(float((codes != 0).sum()) / len(codes))
    return {
        "dictionary/mse": float(np.mean(errors)),
        "dictionary/explained_variance": float(np.mean(explained)),
        "dictionary/l0": float(np.mean(active)),
    }


def _record_data(judged: KnownRows, run: Run) -> None:
    """How the first two sources depend on each other, and the same with one of them shuffled."""
    sources = judged.sources.double().numpy()
    if sources.shape[1] < 2:
        return
    generator = numpy_generator(run.seed, "shuffled source")
    pairs = {"": sources[:, 1], "shuffled": generator.permutation(sources[:, 1])}
    for condition, second in pairs.items():
        r = float(np.corrcoef(sources[:, 0], second)[0, 1])
        run.record(
            {"data/correlation": r, "data/mutual_information": information(sources[:, 0], second)}, condition=condition
        )
    run.record({"data/entropy_s2": information(sources[:, 1], sources[:, 1])})


def findings(metrics: Mapping[str, float], found: Mapping[str, Scored], gains: Mapping[str, Spread]) -> list[str]:
    """What the numbers allow to say, and what not, in sentences."""

    def of(name: str, condition: str = "") -> float:
        return metrics[f"recovery/{name}@{condition}" if condition else f"recovery/{name}"]

    count, m = found[""].matched.shape[1], of("latents")
    sources = [f"s{j + 1}" for j in range(count)]

    def listed(prefix: str, condition: str = "") -> str:
        return " and ".join(f"{of(prefix + source, condition):.3f}" for source in sources)

    gain = gains[""]
    verdict = (
        f"training changed the mean by {gain.mean:+.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f}), so that "
    ) + ("it did find something." if gain.low > 0 else "a good best latent shows nothing that training did.")
    said = [
        f"The best of {m:.0f} latents has |r| {listed('best_')} with {' and '.join(sources)}. The best of {m:.0f} "
        f"units that nobody trained has {listed('best_', 'untrained')}: {verdict}",
        f"Of {m:.0f} signals of independent noise the best have {listed('best_', 'noise')}; of the dictionary's own "
        f"codes, each put out of step in time, {listed('best_', 'shifted')}"
        + (f": {_OUT_OF_STEP}." if of("matched_mean", "shifted") > of("matched_mean", "noise") + _MUCH else "."),
        f"Matched one to one, the dictionary has a mean |r| of {of('matched_mean'):.3f}, ICA "
        f"{of('matched_mean', 'ica'):.3f}, PCA {of('matched_mean', 'pca'):.3f}, the raw signals "
        f"{of('matched_mean', 'raw'):.3f}. ICA has {of('latents', 'ica'):.0f} components and nothing to choose from; "
        f"the dictionary leaves {of('unmatched'):.0f} latents unmatched, which carry "
        f"{100 * of('unmatched_weight'):.0f} % of what it reconstructs.",
    ]
    other = gains["decorrelated"]
    return [
        *said,
        f"With the decorrelation penalty the mean matched |r| is {of('matched_mean', 'decorrelated'):.3f}, "
        f"{other.mean:+.3f} from its start ({other.low:+.3f} to {other.high:+.3f}), and "
        f"{100 * of('unmatched_weight', 'decorrelated'):.0f} % of the reconstruction lies in unmatched latents.",
    ]
