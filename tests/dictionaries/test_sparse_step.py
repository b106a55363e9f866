"""Gradients from active entries alone are autograd's, for every kind that has them, whatever its options.

The reference is autograd on `loss` in float64. Where a little rounding of the weights moves even that (an entry at the
edge of being active, a mean activity near zero), the example says nothing about the step and is passed over.
"""

import copy
import zlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.dictionaries.base import DictionaryConfig, Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAE, SAEConfig
from unweave.dictionaries.topk import LargestConfig, TopK

WITHIN = 1e-5
ROUNDING = 1e-6  # some ten times that of float32
KERNELS: dict[str, Callable[[], Kernels]] = {
    "torch": TorchKernels,
    "numba": CompiledKernels,
    "numba, two threads": lambda: CompiledKernels(workers=2),
}


def _options(kind: type[SAEConfig], m: int) -> dict[str, st.SearchStrategy[object]]:
    """What may be drawn for a kind of m latents."""
    options: dict[str, st.SearchStrategy[object]] = {
        "reconstruction": st.sampled_from(["sum", "mean"]),
        "decoder_norm": st.sampled_from(["unit", "free"]),
        "aux": st.sampled_from([0.0, 0.7]),
        "aux_k": st.sampled_from([None, 1, 3, 100]),
    }
    if issubclass(kind, LargestConfig):
        options.update(k=st.integers(1, m), k_start=st.sampled_from([1.0, 2.5]))
    else:
        options.update(warm_up_share=st.sampled_from([0.0, 0.6]))
    own: dict[type[SAEConfig], dict[str, st.SearchStrategy[object]]] = {
        ReLU: {"l1_reduction": st.sampled_from(["mean", "sum"]), "weigh_by_norm": st.booleans()},
        ReLUKL: {"squash": st.booleans(), "rho": st.sampled_from([0.01, 0.3])},
        JumpReLU: {
            "target": st.one_of(st.none(), st.floats(0.5, m)),
            "l0": st.sampled_from([0.0, 2.0]),
            "bandwidth": st.sampled_from([0.05, 0.5, 3.0]),
        },
        Matryoshka: {"prefixes": _prefixes(m)},
    }
    return options | own.get(kind, {})


def _prefixes(m: int) -> st.SearchStrategy[tuple[float, ...]]:
    inner = st.sets(st.integers(1, m - 1), max_size=3) if m > 1 else st.just(set())
    return inner.map(lambda sizes: tuple(size / m for size in sorted(sizes | {m})))


def _moved(config: SAEConfig, d_in: int, generator: torch.Generator) -> SAE:
    """A dictionary with every weight drawn at random."""
    sae = config.build(d_in)
    for name, parameter in sae.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(drawn.abs() / 2 if name == "threshold" else drawn)
        if name in sae.unit_rows():
            parameter.data.copy_(torch.nn.functional.normalize(parameter.data, dim=1))
    return sae


def _exact(sae: SAE, batch: Tensor, step: Step) -> dict[str, Tensor]:
    """Gradients by parameter, of autograd in float64."""
    sae = copy.deepcopy(sae).double()
    sae.loss(batch.double(), step).total.backward()
    return {name: parameter.grad for name, parameter in sae.named_parameters()}


def _rounding(sae: SAE, batch: Tensor, step: Step, exact: dict[str, Tensor]) -> float:
    """How far rounding of the weights moves the exact gradients, relative to each."""
    generator, moved = torch.Generator().manual_seed(5), copy.deepcopy(sae).double()
    for parameter in moved.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.mul_(1 + ROUNDING * noise)
    other = _exact(moved, batch, step)
    return max(float((other[name] - g).norm()) / _scale(g, exact) for name, g in exact.items())


def _scale(gradient: Tensor, exact: dict[str, Tensor]) -> float:
    """The gradient's length; where it vanishes (unit rows of width 1 cannot turn), a little of the longest one's."""
    longest = max(float(g.norm()) for g in exact.values())
    return max(float(gradient.norm()), 1e-4 * longest) or 1.0


def _expect_same(sae: SAE, batch: Tensor, step: Step, kernels: Kernels, exact: dict[str, Tensor]) -> None:
    for parameter in sae.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # what an earlier batch left
    with kernels:
        found = sae.gradients(batch, step, kernels)
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        off = float((parameter.grad - exact[name]).norm()) / _scale(exact[name], exact)
        assert off <= WITHIN, f"{name} is off by {off:.1e} with {kernels.name}: {sae.config}"
    losses = sae.loss(batch, step)
    assert found.parts.keys() == losses.parts.keys()
    for name, part in losses.parts.items():
        assert not found.parts[name].requires_grad
        assert float(found.parts[name]) == pytest.approx(float(part.detach()), rel=1e-4, abs=1e-6), name
    assert float(found.error) == pytest.approx(float(losses.error), rel=1e-4)
    assert found.fired.tolist() == losses.fired.tolist()
    assert found.rows == losses.rows == len(batch)


KINDS = sorted(
    (
        kind
        for kind in DictionaryConfig.registry.members().values()
        if issubclass(kind, SAEConfig) and kind().build(4).has_sparse_step()
    ),
    key=lambda kind: kind.kind,
)


def test_no_kind_is_left_out() -> None:
    assert {TopK, ReLU, ReLUKL, BatchTopK, Matryoshka, JumpReLU, Gated} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@settings(max_examples=25)
@given(st.data())
def test_the_sparse_step_is_autograd(kind: type[SAEConfig], data: st.DataObject) -> None:
    b, d, m = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40))
    options = data.draw(st.fixed_dictionaries(_options(kind, m)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    sae = _moved(kind(d_sae=m, **options), d, generator)
    batch = 2 * torch.randn(b, d, generator=generator)
    share = data.draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    dead = None if share is None else torch.rand(m, generator=generator) < share
    step = Step(data.draw(st.integers(0, 10)), 10, dead)
    exact = _exact(sae, batch, step)
    assume(_rounding(sae, batch, step, exact) < WITHIN)
    for make in (TorchKernels, CompiledKernels):
        _expect_same(sae, batch, step, make(), exact)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_same_over_many_pieces_of_work(kind: type[SAEConfig], kernels: str) -> None:
    """More rows than a piece of the compiled loops holds, and latents enough to share them out."""
    generator = torch.Generator().manual_seed(zlib.crc32(kind.kind.encode()))
    sae = _moved(kind(d_sae=400, aux=0.5), 24, generator)
    batch = torch.randn(600, 24, generator=generator)
    step = Step(3, 10, torch.rand(400, generator=generator) < 0.3)
    exact = _exact(sae, batch, step)
    _expect_same(sae, batch, step, KERNELS[kernels](), exact)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_nothing_active_leaves_the_bias_alone(kind: type[SAEConfig], kernels: str) -> None:
    sae = _moved(kind(d_sae=40, aux=0.0), 5, torch.Generator().manual_seed(0))
    sae.b_enc.data.fill_(-1000.0)
    batch = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    exact = _exact(sae, batch, Step(0, 10))
    assert not sae.loss(batch, Step(0, 10)).fired.any()
    torch.testing.assert_close(exact["b_dec"].float(), -2 * (batch - sae.b_dec.data).mean(0))
    _expect_same(sae, batch, Step(0, 10), KERNELS[kernels](), exact)


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_weights_that_are_no_numbers_reach_the_loss(kind: type[SAEConfig], kernels: str) -> None:
    """Also where NaN has its sign set, as x86 gives it for ∞ − ∞: training must stop, not go on with silent latents."""
    sae = _moved(kind(d_sae=40), 5, torch.Generator().manual_seed(0))
    sae.b_enc.data.copy_(torch.tensor([-(1 << 22)], dtype=torch.int32).view(torch.float32).expand(40))
    assert sae.b_enc.isnan().all()
    assert sae.b_enc.signbit().all()
    batch = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    made = KERNELS[kernels]()
    with made:
        assert not sae.gradients(batch, Step(1, 10), made).total.isfinite()
