"""Losses and gradients against references written out by hand, in float64."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Step
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAE, Forward, SAEConfig
from unweave.dictionaries.topk import TopK, keep_largest

B, D, S = 7, 5, 9
DEAD = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 1], dtype=torch.bool)
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def _sae(config: SAEConfig) -> SAE:
    sae = config.build(D).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return sae


def _batch() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _pre(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]


def _error(x: Tensor, f: Tensor, p: dict[str, Tensor]) -> Tensor:
    return sum((x[i] - f[i] @ p["W_dec"] - p["b_dec"]).pow(2).sum() for i in range(len(x))) / len(x)


def _topk_mask(pre: Tensor, k: int) -> Tensor:
    mask = torch.zeros_like(pre)
    for i, row in enumerate(pre.tolist()):
        for j in sorted(range(len(row)), key=row.__getitem__)[-k:]:
            mask[i, j] = float(row[j] > 0)
    return mask


def _relu_mean(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _pre(x, p).clamp(min=0)
    return _error(x, f, p) + 0.3 * f.sum(1).mean()


def _relu_sum(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _pre(x, p).clamp(min=0)
    return _error(x, f, p) / D + 0.3 * f.sum()


def _kl(activity: Tensor, rho: float) -> Tensor:
    mean = activity.mean(0)
    return (rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()).sum()


def _kl_squash(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _pre(x, p).clamp(min=0)
    return _error(x, f, p) + 0.7 * _kl(f / (1 + f), 0.2)


def _kl_clamp(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _pre(x, p).clamp(min=0)
    mean = f.mean(0)
    clamped = torch.where(mean > 0.99, torch.full_like(mean, 0.99), mean.clamp(min=0.01))
    return _error(x, f, p) + 0.7 * _kl(clamped[None], 0.2)


def _topk(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre = _pre(x, p)
    return _error(x, pre * _topk_mask(pre.detach(), 3), p)


def _topk_aux(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre = _pre(x, p)
    f = pre * _topk_mask(pre.detach(), 3)
    left = (x - f @ p["W_dec"] - p["b_dec"]).detach()
    among_dead = torch.where(DEAD, pre.detach(), torch.tensor(-math.inf, dtype=torch.float64))
    revived = (pre * _topk_mask(among_dead, 2)) @ p["W_dec"]
    return _error(x, f, p) + 0.25 * (left - revived).pow(2).sum(1).mean()


CASES = {
    "relu": (ReLU(d_sae=S, l1=0.3), _relu_mean, None),
    "relu, sums": (ReLU(d_sae=S, l1=0.3, l1_reduction="sum", reconstruction="mean"), _relu_sum, None),
    "kl": (ReLUKL(d_sae=S, kl=0.7, rho=0.2), _kl_squash, None),
    "kl, clamped": (ReLUKL(d_sae=S, kl=0.7, rho=0.2, squash=False, epsilon=0.01), _kl_clamp, None),
    "topk": (TopK(d_sae=S, k=3), _topk, None),
    "topk, none dead": (TopK(d_sae=S, k=3), _topk, torch.zeros(S, dtype=torch.bool)),
    "topk, aux off": (TopK(d_sae=S, k=3, aux=0), _topk, DEAD),
    "topk, aux": (TopK(d_sae=S, k=3, aux=0.25), _topk_aux, DEAD),  # aux_k is half of d_in
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_the_reference_s(case: str) -> None:
    config, reference, dead = CASES[case]
    sae = _sae(config)
    total = sae.loss(_batch(), Step(3, 10, dead)).total
    total.backward()
    p = {name: getattr(sae, name).detach().clone().requires_grad_() for name in NAMES}
    expected = reference(_batch(), p)
    expected.backward()
    torch.testing.assert_close(total, expected)
    for name in NAMES:
        torch.testing.assert_close(getattr(sae, name).grad, p[name].grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [case for case in CASES if case != "topk, aux"])  # there, e is held fixed on purpose
def test_gradients_are_the_slopes_of_the_loss(case: str) -> None:
    config, _, dead = CASES[case]
    sae, batch, step = _sae(config), _batch(), 1e-6
    sae.loss(batch, Step(0, None, dead)).total.backward()
    for name in NAMES:
        parameter = getattr(sae, name)
        flat = parameter.data.view(-1)
        for index in range(0, len(flat), 4):
            before, sides = float(flat[index]), []
            for side in (step, -step):
                flat[index] = before + side
                sides.append(float(sae.loss(batch, Step(0, None, dead)).total.detach()))
            flat[index] = before
            slope = (sides[0] - sides[1]) / (2 * step)
            assert slope == pytest.approx(float(parameter.grad.view(-1)[index]), rel=1e-5, abs=1e-6), (name, index)


def _kl_of(config: ReLUKL, codes: list[list[float]]) -> tuple[float, Tensor]:
    sae = replace(config, d_sae=len(codes[0])).build(1).double()
    f = torch.tensor(codes, dtype=torch.float64, requires_grad=True)
    (value,) = sae.penalties(Forward(f, f, torch.zeros(len(codes), 1)), Step(0)).values()
    value.backward()
    return float(value.detach()), f.grad


def test_the_squashed_divergence_of_two_latents_by_hand() -> None:
    # f/(1+f): latent 0 has ½ and 0, mean ¼; latent 1 has ¾ and ¼, mean ½ = ρ, so it costs nothing.
    value, gradient = _kl_of(ReLUKL(kl=2.0, rho=0.5), [[1.0, 3.0], [0.0, 1 / 3]])
    assert value == pytest.approx(2 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)))
    # d/dm = (1−ρ)/(1−m) − ρ/m = 2/3 − 2; dm/df = 1/(2 (1+f)²).
    assert gradient[:, 0].tolist() == pytest.approx([2 * (2 / 3 - 2) / 8, 2 * (2 / 3 - 2) / 2])
    assert gradient[:, 1].tolist() == pytest.approx([0, 0])


def test_the_clamped_divergence_by_hand() -> None:
    # means: 2 is clamped to 0.9, 0 to 0.1, 0.3 stays.
    config = ReLUKL(kl=1.0, rho=0.3, squash=False, epsilon=0.1)
    value, gradient = _kl_of(config, [[4.0, 0.0, 0.6], [0.0, 0.0, 0.0]])
    above = 0.3 * math.log(0.3 / 0.9) + 0.7 * math.log(0.7 / 0.1)
    below = 0.3 * math.log(0.3 / 0.1) + 0.7 * math.log(0.7 / 0.9)
    assert value == pytest.approx(above + below)
    assert gradient[:, :2].abs().max() == 0  # out of reach of the penalty
    assert gradient[:, 2].tolist() == pytest.approx([0, 0])  # at its target


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e6, 1e30])
def test_the_divergence_is_finite_at_both_ends(squash: bool, value: float) -> None:
    sae = ReLUKL(d_sae=2, squash=squash).build(1)
    codes = torch.full((3, 2), value)
    assert torch.isfinite(sae.penalties(Forward(codes, codes, torch.zeros(3, 1)), Step(0))["kl"])


def test_the_largest_positive_entries_are_kept() -> None:
    pre = torch.tensor([[3.0, -1, 2, 5], [-1, -2, -3, -4], [-5, 1, -2, 0]])
    assert keep_largest(pre, 2).tolist() == [[3, 0, 0, 5], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert torch.equal(keep_largest(pre, 4), pre.relu())
    assert (keep_largest(torch.ones(2, 5), 3) != 0).sum(1).tolist() == [3, 3]  # ties are broken, not kept


@pytest.mark.parametrize(("aux_k", "active"), [(None, 2), (1, 1), (100, 5)])
def test_so_many_dead_latents_are_revived(aux_k: int | None, active: int) -> None:
    sae = _sae(TopK(d_sae=S, k=1, aux=1.0, aux_k=aux_k))
    sae.b_enc.data += 100  # every latent is positive
    pre = sae.pre_activations(_batch()[:1])
    sae.penalties(Forward(pre, pre, torch.zeros(1, D, dtype=torch.float64)), Step(0, 10, DEAD))["aux"].backward()
    pulled = (sae.W_dec.grad != 0).any(1)
    assert int(pulled.sum()) == active
    assert not pulled[~DEAD].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopK(d_sae=4, k=5),
        lambda: TopK(k=0),
        lambda: TopK(aux=-1.0),
        lambda: TopK(aux_k=0),
        lambda: ReLU(l1=-0.1),
        lambda: ReLU(l1=math.nan),
        lambda: ReLUKL(rho=0.0),
        lambda: ReLUKL(rho=1.0),
        lambda: ReLUKL(kl=-1.0),
        lambda: ReLUKL(epsilon=1e-9),
        lambda: ReLUKL(epsilon=0.5),
        lambda: ReLU(d_sae=0).build(3),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
