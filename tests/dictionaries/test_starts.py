"""Where weights start: the geometric median against a minimiser, and directions that are rows of the data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.sae import SAE, SAEConfig
from unweave.dictionaries.starts import geometric_median
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _start(config: SAEConfig, rows: Tensor, seed: int = 0) -> SAE:
    sae = config.build(rows.shape[1])
    assert isinstance(sae, SAE)
    sae.prepare(TensorRows(rows), _generator(seed))
    return sae


def _distances(points: Tensor, at: Tensor) -> float:
    return float((points.double() - at.double()).norm(dim=1).sum())


def _least_distances(points: Tensor) -> float:
    """The smallest sum of distances, by brute force: it is convex, its minimum at a point or where it is smooth."""
    p = points.double().numpy()

    def cost(at: np.ndarray) -> float:
        return float(np.linalg.norm(p - at, axis=1).sum())

    starts = [p.mean(0), np.median(p, axis=0)]
    settings_ = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 20_000, "maxfev": 20_000}
    smooth = [float(minimize(cost, start, method="Nelder-Mead", options=settings_).fun) for start in starts]
    return min(*smooth, *map(cost, p))


def _expect_median(points: Tensor) -> None:
    found = geometric_median(TensorRows(points))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    least = _least_distances(points)
    size = float(points.double().norm(dim=1).max()) * len(points)
    assert _distances(points, found) <= least * (1 + 1e-4) + 1e-6 * size


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**20), st.sampled_from([1.0, 1e-4, 1e4]))
def test_no_point_has_a_smaller_sum_of_distances(n: int, d: int, seed: int, scale: float) -> None:
    _expect_median(scale * (torch.randn(n, d, generator=_generator(seed)) ** 3 + 1))


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=9))
def test_nor_where_points_repeat_or_lie_on_a_line(points: list[tuple[int, int]]) -> None:
    _expect_median(torch.tensor(points, dtype=torch.float32))


POINTS: dict[str, list[list[float]]] = {
    "one row": [[3, -2]],
    "the same row": [[3, -2]] * 5,
    "more than half are the same": [[3, -2]] * 6 + [[100, 7], [-80, 20], [9, 1000], [5, 5]],
    "zeros": [[0, 0]] * 4,
    "far off the origin": [[1e6 + 1, 1e6], [1e6, 1e6], [1e6 - 1, 1e6], [1e6, 1e6 + 1]],
    "the mean is a row, and not the median": [[0, 0], [3, 0], [3, 0], [3, 0], [-9, 0]],
    "the mean is a row beside a line": [[0, 0], [4, 1], [4, -1], [4, 0], [-12, 0]],
}


@pytest.mark.parametrize("name", POINTS)
def test_the_median_of_special_points(name: str) -> None:
    _expect_median(torch.tensor(POINTS[name], dtype=torch.float32))


def test_outliers_do_not_move_it() -> None:
    rows = torch.randn(1000, 5, generator=_generator()) + 3
    rows[:100] += 1e4
    assert float((geometric_median(TensorRows(rows)) - 3).norm()) < 0.5
    assert float((rows.mean(0) - 3).norm()) > 1e3


def test_the_first_65536_rows_count() -> None:
    class Blocks(TensorRows):
        read = 0

        def blocks(self, rows: int) -> Iterator[Tensor]:
            for block in super().blocks(rows):
                self.read += len(block)
                yield block

    rows = torch.zeros(90_000, 1)
    rows[65_536:] = 1e6
    source = Blocks(rows)
    assert geometric_median(source).tolist() == [0]
    assert source.read == 65_536


@pytest.mark.parametrize("init", ["tied", "data", "kaiming", "torch"])
@pytest.mark.parametrize("b_dec", ["mean", "median", "zero"])
def test_the_decoder_s_bias_starts_as_told(rows: Tensor, init: Any, b_dec: Any) -> None:
    sae = _start(TopK(d_sae=20, k=3, init=init, b_dec=b_dec), rows)
    expected = {"mean": rows.mean(0), "median": geometric_median(TensorRows(rows)), "zero": torch.zeros(6)}[b_dec]
    torch.testing.assert_close(sae.b_dec.data, expected)
    assert not sae.b_enc.any()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))


def test_the_data_start_points_at_rows(rows: Tensor) -> None:
    sae = _start(TopK(d_sae=50, k=3, init="data"), rows)
    seen = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    near = (sae.W_dec.detach() @ seen.T).max(1).values
    assert float(near.min()) > 0.9987  # a twentieth of noise turns by three degrees at most
    assert float(near.max()) < 1
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    random = _start(TopK(d_sae=50, k=3), rows)
    assert float((random.W_dec.detach() @ seen.T).max(1).values.min()) < 0.99


def test_the_data_start_of_relu_is_scaled(rows: Tensor) -> None:
    sae = _start(ReLU(d_sae=300, init="data"), rows)
    gain = float((sae.W_enc.T * sae.W_dec).sum(1).mean().detach())
    assert 0 < gain < 0.1
    torch.testing.assert_close(sae.W_enc.data, gain * sae.W_dec.data.T)


def test_rows_are_drawn_from_all_of_the_data() -> None:
    """From every block that is read, in no order, each latent its own."""
    angle = torch.arange(30_000) / 30_000 * 2 * torch.pi
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    sae = _start(TopK(d_sae=900, k=3, init="data", b_dec="zero"), rows)
    found = torch.atan2(*sae.W_dec.detach().T.flip(0)) % (2 * torch.pi)
    counts = torch.histc(found, bins=9, min=0, max=2 * torch.pi)
    assert int(counts.min()) > 60
    assert int(counts.max()) < 140
    assert abs(float(torch.corrcoef(torch.stack([found, torch.arange(900.0)]))[0, 1])) < 0.1
    assert len(sae.W_dec.detach().unique(dim=0)) == 900


def test_latents_that_start_at_the_same_row_differ() -> None:
    sae = _start(TopK(d_sae=40, k=3, init="data", b_dec="zero"), torch.tensor([[1.0, 2, 2]]))
    cosines = sae.W_dec.detach() @ torch.tensor([1.0, 2, 2]) / 3
    assert float(cosines.min()) > 0.9987
    assert len(sae.W_dec.detach().unique(dim=0)) == 40


@pytest.mark.parametrize("b_dec", ["mean", "zero"])
def test_rows_without_a_direction_are_replaced_by_noise(b_dec: Any) -> None:
    rows = torch.zeros(20, 8) if b_dec == "zero" else torch.full((20, 8), 3.0)
    sae = _start(TopK(d_sae=40, k=3, init="data", b_dec=b_dec), rows)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    cosines = sae.W_dec.detach() @ sae.W_dec.detach().T - torch.eye(40)
    assert float(cosines.max()) < 0.95


@pytest.mark.parametrize("init", ["tied", "data", "kaiming", "torch"])
def test_the_seed_decides(rows: Tensor, init: Any) -> None:
    config = TopK(d_sae=20, k=3, init=init)
    one, same, other = (_start(config, rows, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.W_dec, other.W_dec)
