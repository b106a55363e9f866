"""Which latents a reconstruction needs, class by class: in closed form, and as it was published."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from unweave.figures.importance import importance_histograms
from unweave.metrics.ablation import divergence_offset, divergence_rises, effective_number, error_rises
from unweave.recipes.base import Run
from unweave.recipes.steering_parts import Encoded, Parts
from unweave.steer.ablations import ablation_effects

_EVERY = "all"


@dataclass(frozen=True, eq=False)
class Importance:
    """What the reconstruction loses with each latent, per class and, in the last row, for all images.

    Attributes:
        mse: rise of the mean squared error over a row's entries.
        published: what the notebook took for it, where the dictionary has a KL part: the ablated loss of single rows,
            with the KL of one row, less the loss of the batch, with the KL of its mean.
        offset: share of `published` that no latent has caused, but the difference of the two KL parts.
    """

    mse: Float[np.ndarray, "c d_sae"]
    published: Float[np.ndarray, "c d_sae"] | None
    offset: Float[np.ndarray, " c"] | None

    def top(self, group: int, most: int) -> list[int]:
        """The latents that matter most to a class, first things first."""
        return [int(latent) for latent in np.argsort(-self.mse[group], kind="stable")[:most]]


@torch.no_grad()
def importance(parts: Parts, one: Encoded) -> Importance:
    """Importance of every latent of a dictionary, for every class of the held-out rows and for all of them."""
    width = parts.x.shape[1]
    rises = error_rises(one.codes, one.residual, one.sae.directions()) / width
    mse = _by_class(parts, rises)
    config = one.kl
    if config is None:
        return Importance(mse, None, None)
    options = {"rho": config.rho, "epsilon": config.epsilon}
    alone = rises + config.kl * divergence_rises(one.codes, **options)
    groups = [one.codes[parts.label == c] for c in range(len(parts.names))] + [one.codes]
    offsets = np.array([config.kl * divergence_offset(codes, **options) for codes in groups])
    published = _by_class(parts, alone) + offsets[:, None]
    return Importance(mse, published, offsets * one.sae.d_sae / published.sum(1))


def _by_class(parts: Parts, values: Tensor) -> Float[np.ndarray, "c d_sae"]:
    exact = values.double()
    return torch.cat([parts.class_means(exact), exact.mean(0, keepdim=True)]).numpy()


def shares(values: Float[np.ndarray, "c m"]) -> Float[np.ndarray, "c m"]:
    """Each latent's share of its row's sum."""
    return np.asarray(values / values.sum(1, keepdims=True))


def tell_importance(parts: Parts, run: Run, *, most: int) -> dict[str, Importance]:
    """Measure and show the importance of every dictionary's latents; gives it by dictionary."""
    found = {name: importance(parts, one) for name, one in parts.dictionaries.items()}
    run.section(
        "Which latents does a reconstruction need?",
        "A latent's importance is the rise of the mean squared error when it is set to zero: with residual r, code f "
        "and decoder row w it is 2 f (r·w) + f² ‖w‖², for every latent and row by one matrix product.",
    )
    names = [*parts.names, _EVERY]
    rows = []
    for name, one in parts.dictionaries.items():
        rows.append(_row(name, one, found[name]))
        _record(run, name, found[name])
    run.table(
        ["", "effective latents", "… as published", "offset as published", "rank correlation", "model: effective"],
        [[*row, _model(parts, run, name)] for row, name in zip(rows, parts.dictionaries, strict=True)],
        note=(
            f"Effective latents: inverse Simpson index of the shares of importance, mean over the {len(parts.names)} "
            "classes; of as many latents as the dictionary has. As published, the loss of single rows carries the KL "
            "of one row and the batch's that of its mean; their difference is the same for every latent and flattens "
            "the histogram. The last column: the same index of how much the model's own cross-entropy changes when a "
            "latent's part is taken out of its hidden layer."
        ),
        main=1,
    )
    for name, one in parts.dictionaries.items():
        ways = {"squared error": shares(found[name].mse)}
        if (published := found[name].published) is not None:
            ways["as published"] = shares(published)
        run.show(
            f"importance_{name}",
            importance_histograms(ways, names),
            f"{_title(name, one)}: how many of {one.sae.d_sae} latents have how much of a class's importance, on "
            f"{len(parts.x):,} held-out rows. Dotted: 1/{one.sae.d_sae}, all alike. Dashed: 90th percentile. "
            "The last bin holds what lies beyond it.",
        )
    main = found[next(iter(parts.dictionaries))]
    run.table(
        ["class", f"the {most} latents that matter most to it, first the most"],
        [[name, " ".join(map(str, main.top(c, most)))] for c, name in enumerate(names)],
        note=f"Of the dictionary {_title(next(iter(parts.dictionaries)), parts.main)}, by squared error.",
    )
    run.findings += _findings(found, parts)
    return found


def _title(name: str, one: Encoded) -> str:
    return f"ρ = {name}" if one.kl else name


def _row(name: str, one: Encoded, found: Importance) -> list[str]:
    right = float(effective_number(found.mse[:-1]).mean())
    if found.published is None or found.offset is None:
        return [_title(name, one), f"{right:.1f}", "–", "–", "–"]
    flat = float(effective_number(found.published[:-1]).mean())
    ranks = float(np.mean(rank_correlations(found)))
    share = f"{100 * found.offset[:-1].mean():.0f} ± {100 * found.offset[:-1].std():.0f} %"
    return [_title(name, one), f"{right:.1f}", f"{flat:.1f}", share, f"{ranks:.3f}"]


def rank_correlations(found: Importance) -> list[float]:
    """Spearman's correlation, class by class, of importance as it is and as it was published."""
    assert found.published is not None, "only asked of a dictionary with a KL part"
    return [float(spearmanr(a, b).statistic) for a, b in zip(found.mse[:-1], found.published[:-1], strict=True)]


def _record(run: Run, name: str, found: Importance) -> None:
    run.record({f"sae@{name}/effective_latents": float(effective_number(found.mse[:-1]).mean())})
    if found.published is not None and found.offset is not None:
        run.record(
            {
                f"sae@{name}/effective_latents@published": float(effective_number(found.published[:-1]).mean()),
                f"sae@{name}/importance_offset_share": float(found.offset[:-1].mean()),
                f"sae@{name}/importance_rank_r": float(np.mean(rank_correlations(found))),
            }
        )


def _model(parts: Parts, run: Run, name: str) -> str:
    """Over how many latents the model's own loss is spread."""
    one = parts.dictionaries[name]
    effects = ablation_effects(parts.model.module, one.sae, parts.test, at=parts.at, seed=run.seed)
    number = float(effective_number(np.abs(effects.loss.T)).mean())
    run.record({f"sae@{name}/effective_latents@model": number})
    return f"{number:.1f}"


def _findings(found: dict[str, Importance], parts: Parts) -> list[str]:
    told = []
    for name, one in found.items():
        if one.published is not None and one.offset is not None:
            right, flat = (float(effective_number(values[:-1]).mean()) for values in (one.mse, one.published))
            share = 100 * float(one.offset[:-1].mean())
            told.append(f"at ρ = {name} over {right:.0f} (as published {flat:.0f}: {share:.0f} % of it a constant)")
    others = [
        f"{name} over {float(effective_number(one.mse[:-1]).mean()):.0f}"
        for name, one in found.items()
        if one.published is None
    ]
    if not told:
        return []
    d_sae = parts.main.sae.d_sae
    return [f"A class's reconstruction is spread, of {d_sae} latents, {', '.join([*told, *others])}."]
