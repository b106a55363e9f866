"""Every backend does what plain torch does, for any shape."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unweave.dictionaries.kernels import Entries, Kernels, Moving, Revive, Rule
from unweave.dictionaries.kernels.choose import choose_kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels

shapes = st.tuples(st.integers(1, 40), st.integers(1, 24), st.integers(1, 70), st.integers(0, 2**31))


def dense(entries: Entries, d_sae: int) -> torch.Tensor:
    out = torch.zeros(entries.rows, d_sae)
    row = torch.repeat_interleave(torch.arange(entries.rows), entries.offsets.diff().long())
    return out.index_put((row, entries.latent.long()), entries.value, accumulate=True)


def problem(shape):
    b, d, m, seed = shape
    generator = torch.Generator().manual_seed(seed)
    x, weight, decoder = (torch.randn(size, generator=generator) for size in ((b, d), (m, d), (m, d)))
    bias, b_dec = torch.randn(m, generator=generator), torch.randn(d, generator=generator)
    return x, weight.T, bias, decoder, b_dec


@pytest.fixture(params=[1, 2], ids=["one-thread", "two-threads"])
def compiled(request):
    with CompiledKernels(workers=request.param) as kernels:
        yield kernels


def rules(m: int, b: int):
    return [Rule(), Rule(per_row=max(1, m // 4)), Rule(per_row=m), Rule(in_batch=max(1, b * m // 5)),
            Rule(in_batch=max(1, b * m // 5), guess=0.3), Rule(in_batch=b * m, guess=50.0)]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_selection_is_that_of_dense_torch(shape):
    x, weight, bias, *_ = problem(shape)
    pre = torch.addmm(bias, x, weight)
    for rule in rules(len(bias), len(x)):
        most = rule.per_row or len(bias)
        expected = torch.zeros_like(pre).scatter(1, (top := pre.topk(most)).indices, top.values.relu())
        if rule.in_batch is not None:
            flat = pre.flatten().topk(min(rule.in_batch, pre.numel()))
            expected = torch.zeros(pre.numel()).scatter(0, flat.indices, flat.values.relu()).view_as(pre)
        for kernels in (TorchKernels(), CompiledKernels()):
            with kernels:
                found, _ = kernels.encode(x, weight, bias, rule)
            torch.testing.assert_close(dense(found, len(bias)), expected)


@settings(deadline=None, max_examples=40)
@given(shapes, st.data())
def test_latents_to_revive_are_chosen_among_themselves(shape, data):
    x, weight, bias, *_ = problem(shape)
    dead = torch.tensor(sorted(data.draw(st.sets(st.integers(0, len(bias) - 1), min_size=1))))
    k = data.draw(st.integers(1, len(bias)))
    pre = torch.addmm(bias, x, weight)[:, dead]
    top = pre.topk(min(k, len(dead)))
    expected = torch.zeros(len(x), len(bias))
    expected[:, dead] = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    for kernels in (TorchKernels(), CompiledKernels()):
        with kernels:
            _, found = kernels.encode(x, weight, bias, Rule(per_row=1), Revive(dead, k))
        assert found is not None
        torch.testing.assert_close(dense(found, len(bias)), expected)


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_sums_over_entries_are_those_of_dense_torch(shape):
    x, weight, bias, decoder, b_dec = problem(shape)
    m = len(bias)
    for kernels in (TorchKernels(), CompiledKernels()):
        with kernels:
            entries, _ = kernels.encode(x, weight, bias, Rule(per_row=min(3, m)))
            codes = dense(entries, m)
            residual, dots, square = kernels.reconstruct(x, entries, entries.value, decoder, b_dec)
            wanted = x - b_dec - codes @ decoder
            torch.testing.assert_close(residual, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(square.float(), wanted.square().sum(), rtol=1e-4, atol=1e-4)
            row = torch.repeat_interleave(torch.arange(len(x)), entries.offsets.diff().long())
            products = (wanted @ decoder.T)[row, entries.latent.long()]
            torch.testing.assert_close(dots, products, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(kernels.dots(residual, entries, decoder), products, rtol=1e-4, atol=1e-3)
            groups = kernels.group(entries, m)
            out = torch.full((m, x.shape[1]), torch.nan)
            kernels.accumulate(groups, entries.value, x, out=out)
            torch.testing.assert_close(out, codes.T @ x, rtol=1e-4, atol=1e-4)
            kernels.accumulate(groups, entries.value, x, out=out, add=True)
            torch.testing.assert_close(out, 2 * codes.T @ x, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(kernels.sums(groups, entries.value), codes.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
def test_adam_is_torchs_own(unit):
    generator = torch.Generator().manual_seed(0)
    start = torch.nn.functional.normalize(torch.randn(37, 19, generator=generator), dim=1)
    gradients = [torch.randn(37, 19, generator=generator) for _ in range(4)]
    expected = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([expected], lr=1e-2, betas=(0.8, 0.9))
    for gradient in gradients:
        expected.grad = gradient.clone()
        if unit:
            expected.grad -= (gradient * expected.data).sum(1, keepdim=True) * expected.data
        optimizer.step()
        if unit:
            expected.data = torch.nn.functional.normalize(expected.data, dim=1)
    for kernels in (TorchKernels(), CompiledKernels(workers=2)):
        weight, moments = start.clone(), (torch.zeros(37, 19), torch.zeros(37, 19))
        with kernels:
            for step, gradient in enumerate(gradients):
                moving = Moving(weight, gradient.clone(), *moments, 1e-2, unit)
                kernels.adam([moving], step=step + 1, betas=(0.8, 0.9))
        torch.testing.assert_close(weight, expected.data, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_changes_no_bit():
    x, weight, bias, decoder, b_dec = problem((1500, 32, 300, 5))
    results = []
    for workers in (1, 2, 3):
        with CompiledKernels(workers=workers) as kernels:
            entries, _ = kernels.encode(x, weight, bias, Rule(in_batch=9000))
            residual, dots, square = kernels.reconstruct(x, entries, entries.value, decoder, b_dec)
            out = torch.empty(300, 32)
            kernels.accumulate(kernels.group(entries, 300), entries.value, residual, out=out)
            results.append((entries.latent, entries.value, residual, dots, square, out))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_equal_values_are_kept_in_number():
    weight, bias = torch.zeros(3, 64), torch.ones(64)
    for kernels in (TorchKernels(), CompiledKernels()):
        with kernels:
            for rule in (Rule(per_row=5), Rule(in_batch=50)):
                entries, _ = kernels.encode(torch.zeros(10, 3), weight, bias, rule)
                assert len(entries.latent) == 50
                assert (
                    len(set(zip(np.repeat(range(10), entries.offsets.diff()), entries.latent.tolist(), strict=True)))
                    == 50
                )


def test_rows_of_very_different_scale_are_each_served():
    scale = torch.tensor([1e-6, 1e6, 1.0, 1e-12, 1e3, 0.0]).repeat(20)[:, None]
    x, weight, bias, *_ = problem((120, 16, 200, 7))
    pre = (x * scale) @ weight
    top = pre.topk(8)
    expected = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    with CompiledKernels() as kernels:
        found, _ = kernels.encode(x * scale, weight, torch.zeros_like(bias), Rule(per_row=8))
    torch.testing.assert_close(dense(found, 200), expected)


@pytest.mark.parametrize("kernels", [TorchKernels(), CompiledKernels()], ids=lambda kernels: kernels.name)
def test_nan_is_selected_rather_than_lost(kernels: Kernels):
    x, weight, bias, *_ = problem((20, 4, 50, 3))
    x[7, 2] = torch.nan
    with kernels:
        entries, _ = kernels.encode(x, weight, bias.clone().fill_(torch.nan), Rule(per_row=4))
    assert entries.value[entries.offsets[7] : entries.offsets[8]].isnan().any()


def test_bfloat16_rounds_the_product_alone():
    x, weight, bias, *_ = problem((64, 32, 128, 9))
    exact = torch.addmm(bias, x, weight)
    for kernels in (TorchKernels("bfloat16"), CompiledKernels("bfloat16")):
        with kernels:
            found = dense(kernels.encode(x, weight, bias, Rule())[0], 128)
        assert float((found - exact.relu()).abs().max()) < 0.02 * float(exact.abs().max())
        assert not torch.equal(found, exact.relu())


def test_the_fastest_kernels_are_chosen():
    assert choose_kernels(torch.device("cpu")).name == "numba"


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()

    def fail() -> None:
        with CompiledKernels(workers=2):
            assert torch.get_num_threads() == 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == before
