"""What each latent's ablation costs the reconstruction: in closed form, and by decoding again without each latent.

The loop is timed on a few latents and counted for all of them: each costs the same. Both ways have to give the same
numbers before either is timed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Side, Spread, ratios, take_turns, threads
from unweave.core.codes import Codes
from unweave.core.seeds import torch_generator
from unweave.metrics.ablation import entry_error_rises, error_rises, mean_rises

_CLASSES = 10
_LOOPED = 4


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    n: int = 60_000
    d_in: int = 128
    d_sae: int = 1024
    k: int = 16
    rounds: int = 5
    threads: Sequence[int] = (1, 2)


@dataclass(frozen=True, eq=False)
class Case:
    """Rows, codes of them, a decoder, and classes."""

    codes: Tensor
    residual: Tensor
    directions: Tensor
    x: Tensor
    label: Tensor

    @staticmethod
    def draw(plan: Plan, k: int) -> "Case":
        """Random codes of which k a row are active; what is timed does not depend on what they mean."""
        generator = torch_generator(0, "ablation", k)
        directions = torch.nn.functional.normalize(torch.randn(plan.d_sae, plan.d_in, generator=generator), dim=1)
        codes = torch.rand(plan.n, plan.d_sae, generator=generator)
        if k < plan.d_sae:
            value, index = codes.topk(k, dim=1)
            codes = torch.zeros_like(codes).scatter_(1, index, value)
        x = codes @ directions + 0.1 * torch.randn(plan.n, plan.d_in, generator=generator)
        label = torch.randint(_CLASSES, (plan.n,), generator=generator)
        return Case(codes, x - codes @ directions, directions, x, label)


@torch.no_grad()
def measure(plan: Plan) -> list[dict[str, object]]:
    """One row a kind of codes and number of threads: seconds in closed form, by the loop, and their ratio."""
    rows = []
    most = torch.get_num_threads()
    for kind, k in (("sparse", plan.k), ("dense", plan.d_sae)):
        case = Case.draw(plan, k)
        closed = (
            partial(_closed_sparse, case, Codes.from_dense(case.codes)) if kind == "sparse" else partial(_closed, case)
        )
        looped = range(0, plan.d_sae, plan.d_sae // _LOOPED)
        np.testing.assert_allclose(closed()[:, list(looped)], _loop(case, looped), rtol=1e-2, atol=1e-4)
        for count in (count for count in plan.threads if count <= most):
            print(f"ablation: {kind} codes, n {plan.n:,}, d_sae {plan.d_sae:,}, threads {count}", flush=True)
            with threads(count):
                sides = [Side("closed", closed), Side("loop", partial(_loop, case, looped))]
                seconds = take_turns(sides, rounds=plan.rounds, sample_seconds=0.0, warm=1)
            seconds["loop"] = [spent * plan.d_sae / len(looped) for spent in seconds["loop"]]
            rows.append(
                {
                    "codes": kind,
                    "n": plan.n,
                    "d_in": plan.d_in,
                    "d_sae": plan.d_sae,
                    "l0": k,
                    "threads": count,
                    "closed_seconds": asdict(Spread.of(seconds["closed"])),
                    "loop_seconds": asdict(Spread.of(seconds["loop"])),
                    "times_closed": asdict(Spread.of(ratios(seconds, "closed")["loop"])),
                }
            )
    return rows


def _closed(case: Case) -> np.ndarray:
    rises = error_rises(case.codes, case.residual, case.directions)
    sums = torch.zeros(_CLASSES, rises.shape[1]).index_add_(0, case.label, rises)
    return (sums / torch.bincount(case.label, minlength=_CLASSES)[:, None]).numpy()


def _closed_sparse(case: Case, codes: Codes) -> np.ndarray:
    return mean_rises(codes, entry_error_rises(codes, case.residual, case.directions), case.label.numpy(), _CLASSES)


def _loop(case: Case, latents: Sequence[int]) -> np.ndarray:
    """Means by class of what taking each of some latents out costs, each decoded anew."""
    whole = case.residual.square().sum(1)
    found = []
    for latent in latents:
        kept = case.codes[:, latent].clone()
        case.codes[:, latent] = 0  # in place: a copy of all codes would cost as much as decoding them
        rise = (case.x - case.codes @ case.directions).square().sum(1) - whole
        case.codes[:, latent] = kept
        sums = torch.zeros(_CLASSES).index_add_(0, case.label, rise)
        found.append(sums / torch.bincount(case.label, minlength=_CLASSES))
    return torch.stack(found, 1).numpy()
