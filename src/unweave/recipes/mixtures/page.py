"""The page of the recipe `mixtures`."""

from collections.abc import Mapping, Sequence

import numpy as np

from unweave.datasets.rows import KnownRows
from unweave.figures.mixtures import distributions, latent_correlations, losses, recovery, signals_over_time
from unweave.recipes.base import Run
from unweave.recipes.mixtures.parts import Scored

CALLED = {
    "": "dictionary",
    "decorrelated": "decorrelated",
    "untrained": "untrained",
    "ica": "ICA",
    "nmf": "NMF",
    "pca": "PCA",
    "raw": "raw signals",
    "shifted": "out of step",
    "noise": "noise",
}
_TRAINED = ("", "decorrelated")
_FITTED = ("mse", "explained_variance", "l0")
_SHOWN_SHARE = 0.3
_MEANING = (
    "Untrained: the dictionary as its training starts. ICA, NMF, PCA: as many components as sources. Out of step: the "
    "dictionary's codes, each turned round in time by a lag of its own. Noise: independent Gaussian signals. ± is the "
    "standard deviation over seeds. Found: share of latents that reach |r| 0.9 with a source. Left over: share of what "
    "is reconstructed (variance of the code times squared length of its direction) in latents that are matched with no "
    "source."
)


def write_page(
    run: Run,
    judged: KnownRows,
    found: Mapping[str, Scored],
    histories: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    *,
    judged_on: str,
) -> None:
    """Sections, figures and tables.

    Args:
        run: whose page it is; its metrics are there.
        judged: rows and sources that everything was judged on.
        found: scores by condition.
        histories: what training logged, by kind and dictionary.
        judged_on: which rows those are, in words.
    """
    _recovery(run, found, judged_on)
    _signals(run, judged, found[""])
    _left_over(run, found)
    _training(run, histories)


def _recovery(run: Run, found: Mapping[str, Scored], judged_on: str) -> None:
    count = found[""].matched.shape[1]
    run.section(
        "Are the sources found?",
        "Each source is matched with one latent, so that the sum of |r| is largest. A dictionary with more latents "
        "than there are sources has more to choose from, before training as after.",
    )
    run.show(
        "recovery",
        recovery({CALLED[name]: one.matched for name, one in found.items()}, ours=[CALLED[name] for name in _TRAINED]),
        f"|r| between each source and the latent that is matched with it, on {judged_on}: a dot for each seed, a bar "
        "for the mean. Blue are trained dictionaries, orange the same before training, grey everything else. The scale "
        "is Fisher's z; values above 0.9995 lie at its end.",
    )
    headings = ["", *(f"s{j + 1}" for j in range(count)), "mean", "signals", "found", "left over"]
    rows = []
    for name, one in found.items():
        numbers = one.metrics()
        spread = one.matched.std(0, ddof=1) if len(one.matched) > 1 else None
        cells = [
            f"{numbers[f'recovery/s{j + 1}']:.3f}" + ("" if spread is None else f" ± {spread[j]:.3f}")
            for j in range(count)
        ]
        share = "–" if name in ("noise", "shifted") else f"{100 * numbers['recovery/unmatched_weight']:.0f} %"
        latents = numbers["recovery/latents"]
        precision = f"{100 * numbers['recovery/precision']:.0f} %"
        mean = f"{numbers['recovery/matched_mean']:.3f}"
        rows.append([CALLED[name], *cells, mean, f"{latents:.0f}", precision, share])
    run.table(headings, rows, note=_MEANING, main=count + 1)


def _signals(run: Run, judged: KnownRows, dictionary: Scored) -> None:
    metrics, sources, rows = run.metrics, judged.sources.numpy(), judged.rows.numpy()
    text = ""
    if "data/correlation" in metrics:
        text = (
            f"s1 and s2 have a correlation of {metrics['data/correlation']:.4f}, and yet s1 says "
            f"{metrics['data/mutual_information']:.2f} of the {metrics['data/entropy_s2']:.2f} bits of s2 (shuffled: "
            f"{metrics['data/mutual_information@shuffled']:.2f}; 32 bins): uncorrelated sources need not be "
            "independent, which is what ICA asks for."
        )
    run.section("Sources, mixtures and latents", text)
    middle = int(np.argsort(dictionary.matched.mean(1))[len(dictionary.matched) // 2])
    chosen = dictionary.matchings[middle].latent
    latents = dictionary.signals[middle][:, chosen]
    shown = slice(0, max(2, int(_SHOWN_SHARE * len(rows))))
    run.show(
        "signals",
        signals_over_time(sources[shown], rows[shown], latents[shown], dictionary.matched[middle].tolist()),
        f"The first {100 * _SHOWN_SHARE:.0f} % of the rows, and the matched latents of the dictionary whose score is "
        "in the middle. Latents are drawn at the source's mean and spread, and upside down where they are negatively "
        "correlated.",
    )
    columns = range(sources.shape[1])
    groups = {
        "source": {f"s{j + 1}": sources[:, j] for j in columns},
        "mixture": {f"x{j + 1}": rows[:, j] for j in range(rows.shape[1])},
        "matched latent": {f"of s{j + 1}": latents[:, j] for j in columns},
    }
    run.show("distributions", distributions(groups), "Values of sources, mixtures and the same latents over all rows.")


def _left_over(run: Run, found: Mapping[str, Scored]) -> None:
    numbers = found[""].metrics()
    run.section(
        "What is left unmatched?",
        f"{numbers['recovery/unmatched']:.0f} latents of {numbers['recovery/latents']:.0f} are matched with no source. "
        "Whoever looks only at the best two does not see them.",
    )
    codes, matched = {}, {}
    for name in (*_TRAINED, "untrained"):
        one = found[name]
        middle = int(np.argsort(one.matched.mean(1))[len(one.matched) // 2])
        codes[CALLED[name]] = one.signals[middle]
        of_source = one.matchings[middle].latent.tolist()
        matched[CALLED[name]] = {latent: f"s{j + 1}" for j, latent in enumerate(of_source)}
    run.show(
        "latent_correlations",
        latent_correlations(codes, matched),
        "Correlations of the codes with each other, for the dictionary of each kind whose score is in the middle. "
        "Alike latents stand together; those that are matched with a source carry its name.",
    )
    rows = []
    for name in _TRAINED:
        error, explained, l0 = (run.metrics[f"dictionary/{what}" + (f"@{name}" if name else "")] for what in _FITTED)
        rows.append([CALLED[name], f"{error:.3f}", f"{explained:.3f}", f"{l0:.1f}"])
    run.table(["", "squared error an entry", "explained variance", "L0"], rows)


def _training(run: Run, histories: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> None:
    run.section("Training", "Both losses are means over the steps between two points of a curve.")
    curves = {CALLED[name]: [_two_losses(history) for history in of_kind] for name, of_kind in histories.items()}
    run.show(
        "losses",
        losses(curves),
        "Squared error (blue, left) and penalty with its weight (orange, right) over training: a faint line for each "
        "seed, a strong one for the mean.",
    )


def _two_losses(history: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    total, error = np.asarray(history["loss"]), np.asarray(history["reconstruction"])
    return {"step": history["step"], "reconstruction": error.tolist(), "penalty": (total - error).tolist()}
