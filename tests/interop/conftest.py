"""Rows that dictionaries of other libraries are compared on, and how.

`make test-interop` runs these tests in an environment of its own, in which the libraries are installed; in the usual
one they are skipped. There they stand alone: nothing of the other tests is loaded, and a library that is missing is a
failure (UNWEAVE_REQUIRE_PEERS=1).
"""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary

Compare = Callable[..., None]
TOLERANCE = 1e-5


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A library that is missing is a failure where all are asked for."""
    if report.skipped and os.environ.get("UNWEAVE_REQUIRE_PEERS") == "1":
        report.outcome = "failed"


def real_rows(width: int) -> Tensor | None:
    """Rows of MNIST, their first pixels where the width is smaller; None where there is none at hand."""
    folder = Path(os.environ.get("UNWEAVE_DATA", "")) / "mnist"
    found = [path for path in sorted(folder.glob("t10k-images*")) if path.is_file()]
    if not found:
        return None
    raw = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    images = torch.frombuffer(bytearray(raw[16 : 16 + 784 * 64]), dtype=torch.uint8).view(64, 784).float() / 255
    return images[:, 784 // 2 - width // 2 :][:, :width].contiguous()


def rows_of(width: int) -> dict[str, Tensor]:
    """Random rows, rows far from zero as activations often are, and real ones."""
    generator = torch.Generator().manual_seed(width)
    normal = torch.randn(64, width, generator=generator)
    rows = {"normal": normal, "far from zero": 3 * normal + 20 * torch.randn(width, generator=generator)}
    real = real_rows(width)
    return rows if real is None else {**rows, "real": real}


@pytest.fixture
def same() -> Compare:
    """Assert that a dictionary has another library's codes and reconstructions, to 1e-5 of the largest value.

    With `zeros=False` rows of zeros are left out, for what divides by a row's length.
    """

    @torch.no_grad()
    def check(
        dictionary: Dictionary,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        width: int,
        *,
        zeros: bool = True,
    ) -> None:
        for name, found in rows_of(width).items():
            rows = found if zeros else found[found.any(1)]
            codes, theirs = dictionary.encode(rows), encode(rows)
            _assert_close(codes, theirs, f"codes of {name} rows")
            _assert_close(dictionary.reconstruct(theirs, rows), decode(theirs), f"reconstruction of {name} rows")

    return check


def _assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    size = float(theirs.abs().max()) or 1.0
    assert float((ours - theirs).abs().max()) <= TOLERANCE * size, f"{what}: {float((ours - theirs).abs().max())}"


@torch.no_grad()
def scramble(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter and every floating buffer a value of its own, so that nothing is zero or tied by chance."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)


@pytest.fixture
def scrambled() -> Callable[[torch.nn.Module, int], None]:
    """Random values for every parameter of a module, from a seed."""
    return scramble
