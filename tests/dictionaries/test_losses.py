"""Losses and gradients against references written out by hand, in float64."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAE, Forward, SAEConfig, keep_largest
from unweave.dictionaries.topk import TopK

B, D, S = 7, 5, 9
DEAD = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 1], dtype=torch.bool)
LATE = Step(3, 10)


def _sae(config: SAEConfig) -> SAE:
    sae = config.build(D).double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sae.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(drawn.abs() if name == "threshold" else drawn)
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


def _relu_weighed(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _pre(x, p).clamp(min=0)
    return _error(x, f, p) + 0.3 * sum(f[:, j].mean() * p["W_dec"][j].pow(2).sum().sqrt() for j in range(S))


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


def _aux(x: Tensor, f: Tensor, over: Tensor, p: dict[str, Tensor]) -> Tensor:
    """A quarter of AuxK with two dead latents, chosen by `over`; aux_k is half of d_in."""
    left = (x - f @ p["W_dec"] - p["b_dec"]).detach()
    among_dead = torch.where(DEAD, over.detach(), torch.tensor(-math.inf, dtype=torch.float64))
    revived = (over * _topk_mask(among_dead, 2)) @ p["W_dec"]
    return 0.25 * (left - revived).pow(2).sum(1).mean()


def _topk_aux(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre = _pre(x, p)
    f = pre * _topk_mask(pre.detach(), 3)
    return _error(x, f, p) + _aux(x, f, pre, p)


def _relu_aux(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre = _pre(x, p)
    return _relu_mean(x, p) + _aux(x, pre.clamp(min=0), pre, p)


def _batch_codes(pre: Tensor) -> Tensor:
    return pre * _topk_mask(pre.detach().reshape(1, -1), 2 * B).view_as(pre)


def _batch_topk(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return _error(x, _batch_codes(_pre(x, p)), p)


def _matryoshka(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    f = _batch_codes(_pre(x, p))
    return sum(_error(x, f * (torch.arange(S) < size), p) for size in (1, 4, 9)) / 3


def _jump(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre, theta = _pre(x, p), p["threshold"].detach()
    fired = (pre > theta).double()
    return _error(x, pre * fired, p) + 2 * (float(fired.sum()) / B / 4 - 1) ** 2


def _jump_aux(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Dead latents take part as far as they are positive, whatever their thresholds."""
    pre, theta = _pre(x, p), p["threshold"].detach()
    return _jump(x, p) + _aux(x, pre * (pre > theta), pre, p)


def _gated(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    pre = _pre(x, p)
    f = (pre > 0) * (p["r_mag"].exp() * pre + p["b_mag"]).clamp(min=0)
    gate = pre.clamp(min=0)
    by_gate = _error(x, gate, {name: p[name].detach() for name in ("W_dec", "b_dec")})
    return _error(x, f, p) + 0.3 * gate.sum(1).mean() + by_gate


CASES = {
    "relu": (ReLU(d_sae=S, l1=0.3), _relu_mean, None),
    "relu, sums": (ReLU(d_sae=S, l1=0.3, l1_reduction="sum", reconstruction="mean"), _relu_sum, None),
    "relu, weighed": (ReLU(d_sae=S, l1=0.3, weigh_by_norm=True, decoder_norm="free"), _relu_weighed, None),
    "relu, half warmed up": (ReLU(d_sae=S, l1=0.6, warm_up_share=0.6), _relu_mean, None),
    "relu, aux": (ReLU(d_sae=S, l1=0.3, aux=0.25), _relu_aux, DEAD),
    "kl": (ReLUKL(d_sae=S, kl=0.7, rho=0.2), _kl_squash, None),
    "kl, half warmed up": (ReLUKL(d_sae=S, kl=1.4, rho=0.2, warm_up_share=0.6), _kl_squash, None),
    "kl, clamped": (ReLUKL(d_sae=S, kl=0.7, rho=0.2, squash=False, epsilon=0.01), _kl_clamp, None),
    "topk": (TopK(d_sae=S, k=3), _topk, None),
    "topk, annealed": (TopK(d_sae=S, k=1, k_start=5.0, k_anneal=0.6), _topk, None),
    "topk, none dead": (TopK(d_sae=S, k=3), _topk, torch.zeros(S, dtype=torch.bool)),
    "topk, aux off": (TopK(d_sae=S, k=3, aux=0), _topk, DEAD),
    "topk, aux": (TopK(d_sae=S, k=3, aux=0.25), _topk_aux, DEAD),
    "batch-topk": (BatchTopK(d_sae=S, k=2), _batch_topk, None),
    "matryoshka": (Matryoshka(d_sae=S, k=2, prefixes=(0.1, 0.4, 1.0)), _matryoshka, None),
    "jumprelu": (JumpReLU(d_sae=S, l0=2.0, target=4.0), _jump, None),
    "jumprelu, half warmed up": (JumpReLU(d_sae=S, l0=4.0, target=4.0, warm_up_share=0.6), _jump, None),
    "jumprelu, aux": (JumpReLU(d_sae=S, l0=2.0, target=4.0, aux=0.25), _jump_aux, DEAD),
    "gated": (Gated(d_sae=S, l1=0.3), _gated, None),
    "gated, half warmed up": (Gated(d_sae=S, l1=0.6, warm_up_share=0.6), _gated, None),
}
# Their gradients are no slopes of the loss. That of a jump's threshold is estimated, because the loss is a step in it.
# The gate's own reconstruction goes through a decoder that is held fixed, so it takes part in the loss, but not in the
# gradient of W_dec, and in that of b_dec only by way of the encoder.
NO_SLOPE = {"jumprelu": {"threshold"}, "gated": {"W_dec", "b_dec"}}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_the_reference_s(case: str) -> None:
    config, reference, dead = CASES[case]
    sae = _sae(config)
    total = sae.loss(_batch(), replace(LATE, dead=dead)).total
    total.backward()
    p = {name: parameter.detach().clone().requires_grad_() for name, parameter in sae.named_parameters()}
    expected = reference(_batch(), p)
    expected.backward()
    torch.testing.assert_close(total, expected)
    for name in p.keys() - {"threshold"}:  # tests of the jump work it out by hand
        torch.testing.assert_close(sae.get_parameter(name).grad, p[name].grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith(", aux")])  # there, e is held fixed
def test_gradients_are_the_slopes_of_the_loss(case: str) -> None:
    config, _, dead = CASES[case]
    sae, batch, step, small = _sae(config), _batch(), replace(LATE, dead=dead), 1e-6
    sae.loss(batch, step).total.backward()
    for name in dict(sae.named_parameters()).keys() - NO_SLOPE.get(config.kind, set()):
        parameter = sae.get_parameter(name)
        for place in itertools.islice(itertools.product(*map(range, parameter.shape)), 0, None, 4):
            before, sides = float(parameter.data[place]), []
            for side in (small, -small):
                parameter.data[place] = before + side
                sides.append(float(sae.loss(batch, step).total.detach()))
            parameter.data[place] = before
            slope = (sides[0] - sides[1]) / (2 * small)
            assert slope == pytest.approx(float(parameter.grad[place]), rel=1e-5, abs=1e-6), (name, place)


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
    sae.loss(_batch()[:1], Step(0, 10, DEAD)).parts["aux"].backward()
    pulled = (sae.W_dec.grad != 0).any(1)
    assert int(pulled.sum()) == active
    assert not pulled[~DEAD].any()


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 100), min_size=S, max_size=S), st.integers(0, 1000))
def test_growing_the_decoder_does_not_bypass_a_weighed_penalty(lengths: list[float], seed: int) -> None:
    sae = _sae(ReLU(d_sae=S, l1=0.3, weigh_by_norm=True, decoder_norm="free"))
    sae.b_enc.data.normal_(generator=torch.Generator().manual_seed(seed))
    before = sae.loss(_batch(), LATE).parts
    factor = torch.tensor(lengths, dtype=torch.float64)
    sae.W_enc.data.div_(factor)
    sae.b_enc.data.div_(factor)
    sae.W_dec.data.mul_(factor[:, None])
    after = sae.loss(_batch(), LATE).parts
    assert after.keys() == {"reconstruction", "l1"}
    for name, part in before.items():
        torch.testing.assert_close(after[name], part)


@pytest.mark.parametrize(
    ("config", "penalty"),
    [
        (ReLU(d_sae=S, warm_up_share=0.5), "l1"),
        (ReLUKL(d_sae=S, warm_up_share=0.5), "kl"),
        (JumpReLU(d_sae=S, target=3.0, warm_up_share=0.5), "l0_penalty"),
        (Gated(d_sae=S, warm_up_share=0.5), "l1"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_only_the_penalty_is_warmed_up(config: PenalisedConfig, penalty: str) -> None:
    parts = [_sae(config).loss(_batch(), Step(index, 20)).parts for index in (0, 4, 10, 15)]
    whole = float(parts[-1][penalty].detach())
    assert whole > 0
    assert [float(part[penalty].detach()) for part in parts] == pytest.approx([0, 0.4 * whole, whole, whole])
    for name in parts[0].keys() - {penalty}:
        assert len({float(part[name].detach()) for part in parts}) == 1


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
        lambda: ReLU(aux=math.nan),
        lambda: ReLU(decoder_rate=0.0),
        lambda: ReLU(decoder_rate=math.inf),
        lambda: ReLU(warm_up_share=1.1),
        lambda: ReLU(warm_up_share=-0.1),
        lambda: ReLU(resample=0.0),
        lambda: ReLU(resample=1.0),
        lambda: TopK(k_start=0.5),
        lambda: TopK(k_start=math.inf),
        lambda: TopK(k_anneal=0.0),
        lambda: BatchTopK(k=0),
        lambda: Matryoshka(prefixes=()),
        lambda: Matryoshka(prefixes=(0.5,)),
        lambda: Matryoshka(prefixes=(0.5, 0.5, 1.0)),
        lambda: Matryoshka(prefixes=(0.5, 0.2, 1.0)),
        lambda: Matryoshka(d_sae=40, prefixes=(0.01, 1.0)),
        lambda: JumpReLU(l0=-1.0),
        lambda: JumpReLU(target=0.0),
        lambda: JumpReLU(d_sae=40, target=41.0),
        lambda: JumpReLU(bandwidth=0.0),
        lambda: JumpReLU(bandwidth=math.nan),
        lambda: Gated(l1=-1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
