"""What each dictionary costs and keeps: its loss in three orders of the rows, how sparse it is, what it spoils."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.seeds import torch_generator
from unweave.metrics.ablation import divergence
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.recipes.base import Run
from unweave.recipes.steering.parts import Encoded, Parts
from unweave.steer.splicing import splice


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Numbers of one dictionary on held-out rows; the KL part by the order of the rows that batches are made of."""

    mse: float
    kl_ordered: float
    kl_shuffled: float
    kl_whole: float
    l0: float
    explained_variance: float
    dead: int
    mean_activation: float


def kept(one: Encoded, x: Float[Tensor, "n d_in"], *, batch_size: int, seed: int) -> Kept:
    """Judge a dictionary on held-out rows.

    Args:
        one: the dictionary with its codes of the rows.
        x: the rows, in the order of the data set.
        batch_size: rows over which the KL part takes its mean activity.
        seed: decides the shuffled order.
    """
    sums = ReconstructionSums(x.shape[1])
    sums.add(x, x - one.residual)
    shuffled = torch.randperm(len(x), generator=torch_generator(seed, "order of the held-out rows"))
    fired = one.codes != 0
    return Kept(
        mse=sums.sum_squares / x.shape[1],
        kl_ordered=_kl(one, one.codes, batch_size),
        kl_shuffled=_kl(one, one.codes[shuffled], batch_size),
        kl_whole=_kl(one, one.codes, len(x)),
        l0=float(fired.sum(1).double().mean()),
        explained_variance=sums.explained_variance,
        dead=int((~fired.any(0)).sum()),
        mean_activation=float(one.codes.double().mean()),
    )


def _kl(one: Encoded, codes: Tensor, batch_size: int) -> float:
    """The weighted KL part: the mean over batches of that of each batch's mean activity; 0 without one."""
    config = one.kl
    if config is None:
        return 0.0
    activity = codes / (1 + codes) if config.squash else codes
    means = torch.stack([batch.double().mean(0) for batch in activity.split(batch_size)])
    return config.kl * float(divergence(means, config.rho, epsilon=config.epsilon).sum(1).mean())


def tell_losses(parts: Parts, run: Run, *, batch_size: int) -> None:
    """Judge every dictionary, and say of the targets what they do."""
    judged = {
        name: kept(one, parts.x, batch_size=batch_size, seed=run.seed) for name, one in parts.dictionaries.items()
    }
    spliced = {
        name: splice(parts.model.module, one.sae, parts.test, at=parts.at, out=run.place(f"splice@{name}"))
        for name, one in parts.dictionaries.items()
    }
    for name, found in judged.items():
        run.record(
            {
                f"sae@{name}/val_loss": found.mse + found.kl_ordered,
                f"sae@{name}/val_loss_shuffled": found.mse + found.kl_shuffled,
                f"sae@{name}/val_loss_whole": found.mse + found.kl_whole,
                f"sae@{name}/val_mse": found.mse,
                f"sae@{name}/l0": found.l0,
                f"sae@{name}/explained_variance": found.explained_variance,
                f"sae@{name}/dead": found.dead,
                f"sae@{name}/mean_activation": found.mean_activation,
            }
        )
        run.record({f"sae@{name}/{key}": value for key, value in spliced[name].metrics.items()})
    alone = next(iter(spliced.values())).model
    run.section(
        "How sparse are they?",
        f"Each dictionary on {len(parts.x):,} held-out rows of width {parts.x.shape[1]}. ρ is the target mean activity "
        "of a latent: small asks for little activity, 0.999 for much.",
    )
    run.table(
        ["", *(_title(parts.dictionaries[name]) for name in judged)],
        [
            ["latents", *(str(one.sae.d_sae) for one in parts.dictionaries.values())],
            ["L0", *(f"{one.l0:.1f}" for one in judged.values())],
            ["explained variance", *(f"{100 * one.explained_variance:.2f} %" for one in judged.values())],
            ["dead latents", *(str(one.dead) for one in judged.values())],
            ["mean activation", *(f"{one.mean_activation:.2f}" for one in judged.values())],
            ["mean squared error", *(f"{one.mse:.6f}" for one in judged.values())],
            ["loss, batches in stored order", *(_loss(one.mse, one.kl_ordered) for one in judged.values())],
            ["loss, batches shuffled", *(_loss(one.mse, one.kl_shuffled) for one in judged.values())],
            ["loss, all rows as one batch", *(_loss(one.mse, one.kl_whole) for one in judged.values())],
            [
                "model's accuracy with x̂ for x",
                *(f"{100 * one.spliced.accuracy:.2f} %" for one in spliced.values()),
            ],
            ["its cross-entropy with x̂", *(f"{one.spliced.cross_entropy:.4f}" for one in spliced.values())],
            ["loss recovered, of mean ablation", *(f"{100 * one.recovered_mean:.2f} %" for one in spliced.values())],
            ["loss recovered, of zero ablation", *(f"{100 * one.recovered_zero:.2f} %" for one in spliced.values())],
        ],
        note=(
            "The loss is the squared error, mean over all entries, plus the weighted KL part of batches of "
            f"{batch_size} rows. The model alone: accuracy {100 * alone.accuracy:.2f} %, cross-entropy "
            f"{alone.cross_entropy:.4f}."
        ),
        main=1,
    )
    run.findings += _findings(parts, judged)


def _title(one: Encoded) -> str:
    return f"ρ = {one.name}" if one.kl else one.name


def _loss(mse: float, kl: float) -> str:
    return f"{mse + kl:.4f} (KL {kl:.4f})" if kl else f"{mse:.6f}"


def _findings(parts: Parts, judged: dict[str, Kept]) -> list[str]:
    by_target = {one.kl.rho: (one, judged[name]) for name, one in parts.dictionaries.items() if one.kl}
    said = []
    if len(by_target) > 1:
        (low, (_, sparse)), (high, (one, dense)) = min(by_target.items()), max(by_target.items())
        d_sae = one.sae.d_sae
        said.append(
            f"ρ = {high:g} is the dense target, not the sparse one: {dense.l0:.0f} of {d_sae} latents are active on a "
            f"row, {sparse.l0:.0f} at ρ = {low:g}."
            + (" Neither is sparse." if sparse.l0 > 0.25 * d_sae else "")
            + "".join(
                f" {name} explains {100 * judged[name].explained_variance:.1f} % with {judged[name].l0:.0f} active."
                for name, other in parts.dictionaries.items()
                if other.kl is None
            )
        )
    falls = [
        f"{100 * (1 - found.kl_shuffled / found.kl_ordered):.0f} % at ρ = {rho:g}"
        for rho, (_, found) in sorted(by_target.items())
        if found.kl_ordered > 0
    ]
    if falls:
        said.append(
            "The validation loss depends on the order of the rows, since the KL part is that of each batch's mean: "
            f"with shuffled instead of stored order the KL part falls by {' and '.join(falls)}."
        )
    return said
