"""The GPU's programs do what plain torch does: on a GPU where there is one, else through Triton's interpreter.

The interpreter takes about a tenth of a second for a program, so shapes are small here, and blocks smaller still, that
every loop over them turns several times.
"""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from unweave.dictionaries.base import DictionaryConfig, Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.kernels import Entries, Revive, Rule, choose_kernels, fused
from unweave.dictionaries.kernels.fused import TritonKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK

ON_GPU = torch.cuda.is_available()  # where there is none, tests/conftest.py has Triton interpret its programs
DEVICE = "cuda" if ON_GPU else "cpu"
EXAMPLES = 60 if ON_GPU else 3
KERNELS = TritonKernels()
shapes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**31))


def small_blocks() -> ExitStack:
    stack = ExitStack()
    for name, size in {"_COLUMNS": 32, "_SCAN": 16, "_CHUNK": 4, "_TOGETHER": 2, "_ENTRIES_A_PROGRAM": 8}.items():
        stack.enter_context(patch.object(fused, name, size))
    return stack


def dense(entries: Entries, d_sae: int) -> torch.Tensor:
    out = torch.zeros(entries.rows, d_sae, device=entries.value.device)
    return out.index_put((rows_of(entries), entries.latent.long()), entries.value, accumulate=True)


def rows_of(entries: Entries) -> torch.Tensor:
    return torch.repeat_interleave(
        torch.arange(entries.rows, device=entries.offsets.device), entries.offsets.diff().long()
    )


def problem(b: int, d: int, m: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    sizes = (b, d), (m, d), (m,), (m, d), (d,)
    x, weight, bias, decoder, b_dec = (torch.randn(size, generator=generator).to(DEVICE) for size in sizes)
    return x, weight.T, bias, decoder, b_dec


def entries_of(latents: list[list[int]], generator: torch.Generator) -> Entries:
    ends = torch.tensor([0, *(len(row) for row in latents)]).cumsum(0)
    latent = torch.tensor([j for row in latents for j in row], dtype=torch.int32)
    value = torch.randn(len(latent), generator=generator)
    return Entries(ends.to(torch.int32).to(DEVICE), latent.to(DEVICE), value.to(DEVICE))


def selected(pre: torch.Tensor, rule: Rule) -> torch.Tensor:
    """What a rule keeps, by sorting."""
    if rule.per_row is not None:
        top = pre.topk(min(rule.per_row, pre.shape[1]))
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    if rule.in_batch is not None:
        top = pre.flatten().topk(min(rule.in_batch, pre.numel()))
        return torch.zeros_like(pre).flatten().scatter(0, top.indices, top.values.relu()).view_as(pre)
    return pre.relu()


@settings(deadline=None, max_examples=EXAMPLES)
@given(shapes, st.data())
def test_selection_is_that_of_dense_torch(shape, data):
    x, weight, bias, *_ = problem(*shape)
    b, m = len(x), len(bias)
    rule = data.draw(
        st.one_of(
            st.builds(Rule, per_row=st.integers(1, m)),
            st.builds(Rule, in_batch=st.integers(1, b * m + 3), guess=st.floats(0, 9)),
            st.just(Rule()),
        )
    )
    with small_blocks():
        found, none = KERNELS.encode(x, weight, bias, rule)
    assert none is None
    torch.testing.assert_close(dense(found, m), selected(x @ weight + bias, rule))


@pytest.mark.parametrize("rule", [Rule(per_row=9), Rule(per_row=150), Rule(in_batch=40), Rule()], ids=str)
def test_rows_of_many_blocks_are_searched_to_the_end(rule):
    x, weight, bias, *_ = problem(2, 4, 150, 1)
    weight = weight * torch.linspace(0, 3, 150, device=DEVICE)  # the largest crowd together, at the end
    with small_blocks():
        found, _ = KERNELS.encode(x, weight, bias, rule)
    torch.testing.assert_close(dense(found, 150), selected(x @ weight + bias, rule))
    if rule.per_row or rule.in_batch:
        assert len(found.latent) == (rule.in_batch or 2 * rule.per_row)
        assert found.padded


def test_the_largest_may_share_a_lane():
    pre = torch.arange(64.0)[None, :].to(DEVICE)
    pre[0, 5::16] += 100  # four of the five largest: only two of them stay in registers
    with small_blocks():
        found, _ = KERNELS.encode(pre, torch.eye(64, device=DEVICE), torch.zeros(64, device=DEVICE), Rule(per_row=5))
    assert found.latent.tolist() == [5, 21, 37, 53, 63]
    assert found.value.tolist() == [105, 121, 137, 153, 63]


@settings(deadline=None, max_examples=EXAMPLES)
@given(shapes, st.data())
def test_latents_to_revive_are_chosen_among_themselves(shape, data):
    x, weight, bias, *_ = problem(*shape)
    m = len(bias)
    dead = torch.tensor(sorted(data.draw(st.sets(st.integers(0, m - 1), min_size=1))), device=DEVICE)
    k = data.draw(st.integers(1, m))
    shift = torch.linspace(-1, 1, len(dead), device=DEVICE) if data.draw(st.booleans()) else None
    with small_blocks():
        _, found = KERNELS.encode(x, weight, bias, Rule(per_row=1), Revive(dead, k, shift))
    assert found is not None
    theirs = (x @ weight + bias)[:, dead] + (0 if shift is None else shift)
    expected = torch.zeros(len(x), m, device=DEVICE)
    expected[:, dead] = selected(theirs, Rule(per_row=k))
    torch.testing.assert_close(dense(found, m), expected)


@settings(deadline=None, max_examples=EXAMPLES)
@given(shapes, st.data())
def test_sums_over_entries_are_those_of_dense_torch(shape, data):
    x, _, bias, decoder, b_dec = problem(*shape)
    m = len(bias)
    latents = data.draw(st.lists(st.lists(st.integers(0, m - 1), max_size=12), min_size=len(x), max_size=len(x)))
    entries = entries_of(latents, torch.Generator().manual_seed(shape[3]))
    codes = dense(entries, m)
    with small_blocks():
        residual, dots, square = KERNELS.reconstruct(x, entries, entries.value, decoder, b_dec)
        again = KERNELS.dots(residual, entries, decoder)
        groups = KERNELS.group(entries, m)
        out = torch.full((m, x.shape[1]), torch.nan, device=DEVICE)
        KERNELS.accumulate(groups, entries.value, x, out=out)
        total = KERNELS.sums(groups, entries.value)
        fired = KERNELS.fired(entries, groups, entries.value)
    wanted = x - b_dec - codes @ decoder
    torch.testing.assert_close(residual, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(square, wanted.square().sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        dots, (wanted @ decoder.T)[rows_of(entries), entries.latent.long()], rtol=1e-4, atol=1e-3
    )
    assert torch.equal(again, dots)
    torch.testing.assert_close(out, codes.T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total, codes.sum(0), rtol=1e-5, atol=1e-6)
    assert fired.tolist() == torch.bincount(entries.latent, minlength=m).tolist()


def test_entries_are_grouped_as_plain_torch_does():
    entries = entries_of([[3, 0, 4], [], [4, 3], [], [0, 2, 4, 5], []], torch.Generator().manual_seed(0))
    groups, plain = KERNELS.group(entries, 7), TorchKernels().group(entries, 7)
    assert groups.starts.tolist() == plain.starts.tolist() == [0, 2, 2, 3, 5, 8, 9, 9]
    assert groups.order.tolist() == plain.order.tolist() == [1, 5, 6, 0, 4, 2, 3, 7, 8]
    assert groups.row.tolist() == plain.row.tolist() == [0, 4, 4, 0, 2, 0, 2, 4, 4]


@pytest.mark.parametrize("lengths", [(0, 3, 21, 0, 1), (8, 4, 12), (2, 7, 3, 11), (24,)], ids=str)
def test_long_groups_are_summed_in_chunks(lengths):
    """With chunks of 4: groups that hold several whole ones, begin or end with one, lie across two, hold none."""
    rows = max(lengths)
    latents = [[j for j, length in enumerate(lengths) if row < length] for row in range(rows)]
    generator = torch.Generator().manual_seed(sum(lengths))
    entries = entries_of(latents, generator)
    x = torch.randn(rows, 3, generator=generator).to(DEVICE)
    before = torch.randn(3, len(lengths), generator=generator).to(DEVICE)
    out = before.clone().T  # strided
    with small_blocks():
        groups = KERNELS.group(entries, len(lengths))
        KERNELS.accumulate(groups, entries.value, x, out=out, scale=-0.5, add=True)
    torch.testing.assert_close(out, before.T - 0.5 * dense(entries, len(lengths)).T @ x)


def test_of_equal_values_the_first_are_kept():
    weight, bias, x = torch.zeros(3, 40, device=DEVICE), torch.ones(40, device=DEVICE), torch.zeros(3, 3, device=DEVICE)
    with small_blocks():
        rows, _ = KERNELS.encode(x, weight, bias, Rule(per_row=18))
        batch, _ = KERNELS.encode(x, weight, bias, Rule(in_batch=50))
    assert rows.latent.tolist() == 3 * list(range(18))
    assert batch.offsets.tolist() == [0, 40, 50, 50]
    assert batch.latent.tolist() == [*range(40), *range(10)]


def test_what_is_not_positive_is_padding():
    x = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]], device=DEVICE)
    none = torch.zeros(3, device=DEVICE)
    rows, _ = KERNELS.encode(x, torch.eye(3, device=DEVICE), none, Rule(per_row=2))
    batch, _ = KERNELS.encode(x, torch.eye(3, device=DEVICE), none, Rule(in_batch=3))
    for found in (rows, batch):
        assert found.padded
        assert dense(found, 3).tolist() == [[1, 0, 0], [0, 0, 0]]
        places = list(zip(rows_of(found).tolist(), found.latent.tolist(), strict=True))
        assert len(places) == len(set(places))
    assert len(rows.value) == 4
    assert len(batch.value) == 3


def test_a_batch_without_entries_leaves_zeros():
    x, weight, bias, decoder, b_dec = problem(3, 4, 5, 2)
    entries, _ = KERNELS.encode(x, weight * 0, bias * 0 - 1, Rule())
    assert entries.offsets.tolist() == [0, 0, 0, 0]
    residual, dots, square = KERNELS.reconstruct(x, entries, entries.value, decoder, b_dec)
    assert torch.equal(residual, x - b_dec)
    assert len(dots) == 0
    torch.testing.assert_close(square, residual.square().sum())
    groups = KERNELS.group(entries, 5)
    out = torch.full((5, 4), torch.nan, device=DEVICE)
    KERNELS.accumulate(groups, entries.value, x, out=out)
    assert torch.equal(out, torch.zeros_like(out))
    assert KERNELS.sums(groups, entries.value).tolist() == [0] * 5


def test_rows_of_very_different_scale_are_each_served():
    scale = torch.tensor([1e-6, 1e30, 1.0, 1e-12, 0.0], device=DEVICE)[:, None]
    x, weight, bias, *_ = problem(5, 8, 60, 7)
    with small_blocks():
        found, _ = KERNELS.encode(x * scale, weight, torch.zeros_like(bias), Rule(per_row=8))
    torch.testing.assert_close(dense(found, 60), selected((x * scale) @ weight, Rule(per_row=8)), atol=0.0, rtol=1e-5)


@pytest.mark.parametrize("rule", [Rule(per_row=3), Rule(in_batch=6), Rule()], ids=str)
def test_what_is_not_finite_is_selected_rather_than_lost(rule):
    pre = torch.linspace(-1, 1, 40).repeat(2, 1)
    pre[0, 3] = torch.nan
    pre[1, 7] = torch.tensor(-4194304, dtype=torch.int32).view(torch.float32)  # NaN with its sign bit set
    pre[1, 9], pre[1, 11] = torch.inf, -torch.inf
    with small_blocks():
        found, _ = KERNELS.encode(torch.eye(2, device=DEVICE), pre.to(DEVICE), torch.zeros(40, device=DEVICE), rule)
    if not pre[:, 3].isnan().all():  # the product spreads what is not finite over its column
        assert found.value.isnan().any()
    rows = dict.fromkeys(range(2), ())
    for row, latent, value in zip(rows_of(found).tolist(), found.latent.tolist(), found.value.tolist(), strict=True):
        rows[row] = (*rows[row], latent) if not value < 100 else rows[row]
    assert all({3, 7} <= set(rows[row]) for row in rows)


def test_bfloat16_rounds_the_product_alone():
    x, weight, bias, *_ = problem(3, 32, 40, 9)
    found, _ = TritonKernels("bfloat16").encode(x, weight, bias, Rule())
    rounded = (x.bfloat16() @ weight.bfloat16()).float() + bias
    torch.testing.assert_close(dense(found, 40), rounded.relu(), rtol=0, atol=0)
    assert not torch.equal(rounded, x @ weight + bias)


@pytest.mark.parametrize(
    "config", [TopK(d_sae=12, k=3, aux=0.5), BatchTopK(d_sae=12, k=2, aux=0.5), ReLU(d_sae=12)], ids=lambda c: c.kind
)
def test_a_step_has_the_gradients_of_plain_torch(config: DictionaryConfig):
    generator = torch.Generator().manual_seed(4)
    sae = config.build(5).to(DEVICE)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    batch = torch.randn(6, 5, generator=generator).to(DEVICE)
    step = Step(3, 10, torch.arange(12, device=DEVICE) % 3 == 0)
    made = []
    for kernels in (KERNELS, TorchKernels()):
        losses = sae.gradients(batch, step, kernels)
        gradients = [parameter.grad.clone() for parameter in sae.parameters()]
        made.append((*losses.parts.values(), losses.error, losses.fired.float(), *gradients))
    for found, expected in zip(*made, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


LARGE = [
    (64, 128, 1024, 32),
    (512, 768, 8192, 64),
    (4096, 128, 16384, 32),
    (4096, 768, 16384, 32),
    (300, 200, 5000, 900),
]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("by", ["row", "batch", "sign"])
def test_on_a_gpu_it_does_what_plain_torch_does(shape, by):
    b, d, m, k = shape
    x, weight, bias, decoder, b_dec = problem(b, d, m, 0)
    weight, bias = weight / d**0.5, bias / 10 - (2.0 if by == "sign" else 0.0)
    rule = {"row": Rule(per_row=k), "batch": Rule(in_batch=k * b), "sign": Rule()}[by]
    plain = TorchKernels()
    entries, _ = KERNELS.encode(x, weight, bias, rule)
    wanted, _ = plain.encode(x, weight, bias, rule)
    found, expected = dense(entries, m), dense(wanted, m)
    if by == "row":
        torch.testing.assert_close(found.sort(1).values, expected.sort(1).values, rtol=1e-4, atol=1e-4)
    differing = (found - expected).abs() > 1e-4  # what lies at the bound, within rounding
    assert int(differing.sum()) <= 1e-4 * len(wanted.latent) + 2
    for ours, theirs in zip(
        KERNELS.reconstruct(x, entries, entries.value, decoder, b_dec),
        plain.reconstruct(x, entries, entries.value, decoder, b_dec),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5 * float(theirs.abs().max()))
    groups, others = KERNELS.group(entries, m), plain.group(entries, m)
    assert torch.equal(groups.starts.long(), others.starts)
    assert torch.equal(groups.order.long(), others.order)
    assert torch.equal(groups.row.long(), others.row)
    ours, theirs = torch.empty_like(decoder), torch.empty_like(decoder)
    for add in (False, True):
        KERNELS.accumulate(groups, entries.value, x, out=ours, scale=-0.3, add=add)
        plain.accumulate(others, entries.value, x, out=theirs, scale=-0.3, add=add)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5 * float(theirs.abs().max()))
    totals = plain.sums(others, entries.value)
    torch.testing.assert_close(KERNELS.sums(groups, entries.value), totals, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [Rule(per_row=32), Rule(in_batch=32 * 512)], ids=str)
def test_on_a_gpu_a_step_waits_for_nothing_and_has_the_same_bits(rule):
    x, weight, bias, decoder, b_dec = problem(512, 256, 4096, 1)
    dead = Revive(torch.arange(0, 4096, 3, device=DEVICE), 100)

    def step() -> list[torch.Tensor]:
        made = []
        entries, revived = KERNELS.encode(x, weight, bias, rule, dead)
        for found in (entries, revived):
            residual, dots, square = KERNELS.reconstruct(x, found, found.value, decoder, b_dec)
            groups, out = KERNELS.group(found, 4096), torch.empty_like(decoder)
            KERNELS.accumulate(groups, found.value, residual, out=out)
            made += [found.latent, found.value, residual, dots, square, out, KERNELS.sums(groups, dots)]
        return made

    first = step()  # compiles, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen():
    assert choose_kernels(torch.device("cuda")).name == "triton"
