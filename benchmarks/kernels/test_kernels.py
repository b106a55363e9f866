"""The sparse step's operations alone, one by one: `pytest benchmarks/kernels` with pytest-benchmark installed.

Sizes are those of the steps: A (d_in 128, d_sae 1,024) and B (d_in 768, d_sae 8,192), k 32, here with 1,024 rows.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unweave.dictionaries.kernels import Entries, Groups, Kernels, Rule
from unweave.dictionaries.kernels.reference import TorchKernels

pytest.importorskip("pytest_benchmark")

ROWS, K = 1024, 32
SIZES = {"A": (128, 1024), "B": (768, 8192)}


@dataclass(frozen=True, eq=False)
class Case:
    """One step's inputs, and what the operations before the timed one leave."""

    kernels: Kernels
    x: Tensor
    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    b_dec: Tensor
    entries: Entries
    groups: Groups


def _implementations() -> list[tuple[str, str]]:
    names = [("torch", "float32")]
    if importlib.util.find_spec("numba"):
        names += [("numba", "float32"), ("numba", "bfloat16")]
    return names


def _kernels(name: str, precision: str) -> Kernels:
    if name == "torch":
        return TorchKernels(precision)
    from unweave.dictionaries.kernels.compiled import CompiledKernels  # noqa: PLC0415 - Numba may not be there

    return CompiledKernels(precision, workers=1)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Width of a row and number of latents."""
    return SIZES[request.param]


@pytest.fixture(params=_implementations(), ids="-".join)
def case(request: pytest.FixtureRequest, size: tuple[int, int]) -> Iterator[Case]:
    """A step on random rows, with one thread."""
    d_in, d_sae = size
    generator = torch.Generator().manual_seed(0)
    decoder = normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    x, bias = torch.randn(ROWS, d_in, generator=generator), torch.zeros(d_sae)
    encoder = decoder.clone().T  # in the decoder's layout, as training keeps it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with _kernels(*request.param) as kernels:
        entries, _ = kernels.encode(x, encoder, bias, Rule(per_row=K))
        groups = kernels.group(entries, d_sae)
        yield Case(kernels, x, encoder, decoder, bias, torch.zeros(d_in), entries, groups)
    torch.set_num_threads(threads)


def test_encode_topk(benchmark, case: Case) -> None:  # noqa: ANN001
    """The largest of each row."""
    found, _ = benchmark(case.kernels.encode, case.x, case.encoder, case.bias, Rule(per_row=K))
    assert len(found.latent) == ROWS * K


def test_encode_batch_topk(benchmark, case: Case) -> None:  # noqa: ANN001
    """The largest of the batch, with a good guess of the smallest of them."""
    guess = 0.8 * float(case.entries.value.topk(len(case.entries.value) // 2).values[-1])
    rule = Rule(in_batch=ROWS * K, guess=guess)
    found, _ = benchmark(case.kernels.encode, case.x, case.encoder, case.bias, rule)
    assert len(found.latent) == ROWS * K


def test_reconstruct(benchmark, case: Case) -> None:  # noqa: ANN001
    """Residual and its products with the active decoder rows."""
    benchmark(case.kernels.reconstruct, case.x, case.entries, case.entries.value, case.decoder, case.b_dec)


def test_dots(benchmark, case: Case) -> None:  # noqa: ANN001
    """Products of rows with the active decoder rows."""
    benchmark(case.kernels.dots, case.x, case.entries, case.decoder)


def test_group(benchmark, case: Case) -> None:  # noqa: ANN001
    """Entries sorted by latent."""
    benchmark(case.kernels.group, case.entries, len(case.decoder))


def test_accumulate(benchmark, case: Case) -> None:  # noqa: ANN001
    """Weighted rows summed by latent: a gradient."""
    out = torch.empty_like(case.decoder)
    benchmark(case.kernels.accumulate, case.groups, case.entries.value, case.x, out=out)


@pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])
def test_adam(benchmark, case: Case, unit: bool) -> None:  # noqa: ANN001
    """One step of Adam over the decoder."""
    weight, gradient = case.decoder.clone(), torch.randn_like(case.decoder)
    moments = torch.zeros_like(weight), torch.zeros_like(weight)
    benchmark(case.kernels.adam, weight, gradient, moments, step=1, rate=1e-3, betas=(0.9, 0.999), unit=unit)
