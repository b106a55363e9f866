"""Which latents a reconstruction needs, class by class: in closed form, and as it was published."""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from unweave.figures.importance import importance_histograms
from unweave.metrics.ablation import divergence_offset, divergence_rises, effective_number, error_rises
from unweave.recipes.base import Run
from unweave.recipes.steering.parts import Encoded, Parts
from unweave.steer.ablations import ablation_effects

_EVERY = "all"


@dataclass(frozen=True, eq=False)
class Published:
    """What the notebook took for importance.

    Attributes:
        values: the loss of single rows with a latent set to zero, with the KL of one row, less the loss of the batch,
            with the KL of its mean; per class and, in the last row, for all images.
        offset: share of it, class by class, that no latent has caused, but the difference of the two KL parts.
        rank_r: Spearman's correlation with the rise of the squared error alone, class by class.
    """

    values: Float[np.ndarray, "c d_sae"]
    offset: Float[np.ndarray, " shown"]
    rank_r: Float[np.ndarray, " shown"]


@dataclass(frozen=True, eq=False)
class Importance:
    """What the reconstruction loses with each latent.

    Attributes:
        mse: rise of the mean squared error over a row's entries, per class and, in the last row, for all images.
        published: the same as it was published, where the dictionary has a KL part.
        shown: classes, from the first on, that show something; numbers over classes are over these.
    """

    mse: Float[np.ndarray, "c d_sae"]
    published: Published | None
    shown: int

    @property
    def effective(self) -> float:
        """Over how many latents a class's reconstruction is spread, mean over classes."""
        return float(effective_number(self.mse[: self.shown]).mean())

    @property
    def effective_published(self) -> float:
        """The same as published; NaN without."""
        if self.published is None:
            return float("nan")
        return float(effective_number(self.published.values[: self.shown]).mean())

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
        return Importance(mse, None, parts.shown)
    options = {"rho": config.rho, "epsilon": config.epsilon}
    alone = rises + config.kl * divergence_rises(one.codes, **options)
    groups = [one.codes[parts.label == c] for c in range(len(parts.names))] + [one.codes]
    offsets = np.array([config.kl * divergence_offset(codes, **options) for codes in groups])
    values, shown = _by_class(parts, alone) + offsets[:, None], slice(parts.shown)
    ranks = [float(scipy.stats.spearmanr(a, b).statistic) for a, b in zip(mse[shown], values[shown], strict=True)]
    share = offsets[shown] * one.sae.d_sae / values[shown].sum(1)
    return Importance(mse, Published(values, share, np.array(ranks)), parts.shown)


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
            "Effective latents: inverse Simpson index of the shares of importance, mean over the "
            f"{parts.shown} classes that show something; of as many latents as the dictionary has. As published, the "
            "loss of single rows carries the KL of one row and the batch's that of its mean; their difference is the "
            "same for every latent and flattens the histogram. The last column: the same index of how much the "
            f"model's own cross-entropy changes, on {len(parts.some):,} images, when a latent's part is taken out of "
            "its hidden layer."
        ),
        main=1,
    )
    for name, one in parts.dictionaries.items():
        ways = {"squared error": shares(found[name].mse)}
        if (published := found[name].published) is not None:
            ways["as published"] = shares(published.values)
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
    cells = [_title(name, one), f"{found.effective:.1f}"]
    if found.published is None:
        return [*cells, "–", "–", "–"]
    offset = found.published.offset
    share = f"{100 * offset.mean():.0f} ± {100 * offset.std():.0f} %"
    return [*cells, f"{found.effective_published:.1f}", share, f"{found.published.rank_r.mean():.3f}"]


def _record(run: Run, name: str, found: Importance) -> None:
    run.record({f"sae@{name}/effective_latents": found.effective})
    if found.published is not None:
        run.record(
            {
                f"sae@{name}/effective_latents@published": found.effective_published,
                f"sae@{name}/importance_offset_share": float(found.published.offset.mean()),
                f"sae@{name}/importance_rank_r": float(found.published.rank_r.mean()),
            }
        )


def _model(parts: Parts, run: Run, name: str) -> str:
    """Over how many latents the model's own loss is spread."""
    one = parts.dictionaries[name]
    place = run.place(f"ablations@{name}")
    effects = ablation_effects(parts.model.module, one.sae, parts.some, at=parts.at, seed=run.seed, out=place)
    number = float(effective_number(np.abs(effects.loss.T)[: parts.shown]).mean())
    run.record({f"sae@{name}/effective_latents@model": number})
    return f"{number:.1f}"


def _findings(found: dict[str, Importance], parts: Parts) -> list[str]:
    told, others = [], []
    for name, one in found.items():
        if one.published is None:
            others.append(f"{name} over {one.effective:.0f}")
            continue
        share = 100 * float(one.published.offset.mean())
        published = f"as published {one.effective_published:.0f}: {share:.0f} % of it a constant"
        told.append(f"at ρ = {name} over {one.effective:.0f} ({published})")
    if not told:
        return []
    d_sae = parts.main.sae.d_sae
    return [f"A class's reconstruction is spread, of {d_sae} latents, {', '.join([*told, *others])}."]
