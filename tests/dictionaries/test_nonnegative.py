"""Non-negative factorisations: codes against exact solutions, planted parts, other implementations."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn import cluster, decomposition
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.nmf import NMF, NMFDictionary
from unweave.dictionaries.nonnegative import NonNegative, NonNegativeConfig
from unweave.dictionaries.semi_nmf import SemiNMF
from unweave.store.rows import TensorRows


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fit(config: DictionaryConfig, rows: Tensor, seed: int = 0) -> Dictionary:
    dictionary = config.build(rows.shape[1])
    dictionary.prepare(TensorRows(rows), _generator(seed))
    return dictionary


def _missed(rows: Tensor, back: Tensor) -> float:
    """Share of the variance that is not explained."""
    exact = rows.double()
    return float((exact - back.double()).square().sum() / (exact - exact.mean(0)).square().sum())


def _cosines(truth: Tensor, found: Tensor) -> Tensor:
    """Of each true direction, the largest cosine with any found one."""
    return (normalize(truth, dim=1) @ normalize(found, dim=1).T).amax(1)


def _sparse(n: int, features: int, share: float, generator: torch.Generator) -> Tensor:
    strength = 0.5 + torch.rand(n, features, generator=generator)
    return strength * (torch.rand(n, features, generator=generator) < share)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.from_numpy(load_digits().data[:400]).float() / 16


def _nonnegative(directions: Tensor, *, k: int | None = None, sweeps: int = 50) -> NonNegative:
    dictionary = SemiNMF(d_sae=len(directions), k=k, sweeps=sweeps).build(directions.shape[1])
    dictionary.W_dec.copy_(directions)
    return dictionary


def test_codes_by_hand() -> None:
    dictionary = _nonnegative(torch.tensor([[1.0, 0], [0.6, 0.8]]))
    # (1, −1): the second would be below 0. (0, 1): the second takes 0.8, what is left points away from the first.
    # (2.2, 1.6) = 1·(1, 0) + 2·(0.6, 0.8). (−1, −1): nothing helps.
    rows = torch.tensor([[1.0, -1], [0, 1], [2.2, 1.6], [-1, -1]])
    torch.testing.assert_close(dictionary.encode(rows), torch.tensor([[1.0, 0], [0, 0.8], [1, 2], [0, 0]]))
    torch.testing.assert_close(dictionary(rows)[2], rows[2])
    # With one latent (2.2, 1.6) gets 2.2 of the first or 2.6 of the second, which is closer.
    torch.testing.assert_close(
        _nonnegative(torch.tensor([[1.0, 0], [0.6, 0.8]]), k=1).encode(rows[2]), torch.tensor([0, 2.6])
    )


@pytest.mark.parametrize(("latents", "d_in"), [(4, 9), (9, 9), (24, 9)])
def test_codes_are_the_non_negative_least_squares(latents: int, d_in: int) -> None:
    generator = _generator(latents)
    directions = normalize(torch.randn(latents, d_in, generator=generator), dim=1)
    rows = torch.randn(20, d_in, generator=generator)
    codes = _nonnegative(directions, sweeps=400).encode(rows)
    assert (codes >= 0).all()
    for row, code in zip(rows, codes, strict=True):
        least = nnls(directions.T.double().numpy(), row.double().numpy())[1] ** 2
        found = float((row - code @ directions).double().square().sum())
        assert found <= least + 1e-4 * float(row.square().sum())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_last_k_codes_are_the_best_on_their_latents(k: int) -> None:
    generator = _generator(k)
    directions = normalize(torch.randn(12, 20, generator=generator), dim=1)
    rows = torch.randn(30, 20, generator=generator)
    codes = _nonnegative(directions, k=k, sweeps=500).encode(rows)
    assert int((codes > 0).sum(1).max()) == k
    slope = (rows - codes @ directions) @ directions.T
    assert slope[codes > 0].abs().max() < 1e-4  # nothing is gained by moving an active code


def test_taking_away_a_few_at_a_time_is_nearly_as_good_as_trying_all_pairs() -> None:
    generator = _generator(7)
    directions = normalize(torch.randn(10, 12, generator=generator), dim=1)
    rows = _sparse(60, 10, 0.2, generator) @ directions + 0.05 * torch.randn(60, 12, generator=generator)
    found = (rows - _nonnegative(directions, k=2)(rows)).square().sum(1)
    best = torch.full((60,), torch.inf)
    for pair in itertools.combinations(range(10), 2):
        part = _nonnegative(directions[list(pair)], sweeps=30)
        best = torch.minimum(best, (rows - part(rows)).square().sum(1))
    assert (found >= best - 1e-5).all()
    assert float(((found - best) < 1e-4).float().mean()) > 0.9
    assert float(found.sum()) < 1.1 * float(best.sum())
    at_once = _nonnegative(directions).encode(rows)
    at_once = torch.where(at_once >= at_once.topk(2).values[:, 1:], at_once, 0.0)
    assert float(found.sum()) < 0.8 * float((rows - at_once @ directions).square().sum())


def test_parts_are_found_where_rows_are_sums_of_them() -> None:
    generator = _generator(4)
    parts = torch.rand(10, 24, generator=generator) * (torch.rand(10, 24, generator=generator) < 0.25)
    rows = _sparse(400, 10, 0.3, generator) @ parts
    dictionary = _fit(NMF(d_sae=10, tol=1e-5), rows)
    assert _cosines(parts, dictionary.directions()).min() > 0.99
    assert _missed(rows, dictionary(rows)) < 1e-3
    assert (dictionary.directions() >= 0).all()
    torch.testing.assert_close(dictionary.directions().norm(dim=1), torch.ones(10))


@pytest.mark.parametrize("kind", [NMF, SemiNMF])
def test_with_k_more_directions_than_inputs_are_found(kind: type[NonNegativeConfig]) -> None:
    generator = _generator(5)
    truth = normalize(torch.randn(18, 12, generator=generator), dim=1)
    truth = normalize(truth.abs() ** 3, dim=1) if kind is NMF else truth
    rows = _sparse(800, 18, 0.15, generator) @ truth
    found = _fit(kind(d_sae=24, k=4), rows).directions()
    chance = normalize(torch.randn(24, 12, generator=generator), dim=1)
    cosines = _cosines(truth, found)
    assert cosines.mean() > 0.95
    assert _cosines(truth, chance.abs() if kind is NMF else chance).mean() < 0.9
    assert float((cosines > 0.95).float().mean()) > 0.7  # over 18 draws of kind, rows and truth: from 0.72 to 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_factors_of_digits_are_as_good_as_those_of_scikit_learn(digits: Tensor) -> None:
    reference = decomposition.NMF(16, init="nndsvda", max_iter=200, random_state=0)
    codes = reference.fit_transform(digits.numpy())
    expected = _missed(digits, torch.from_numpy(codes @ reference.components_))
    dictionary = _fit(NMF(d_sae=16), digits)
    assert _missed(digits, dictionary(digits)) < 1.05 * expected


def _multiplicative(rows: Tensor, codes: Tensor, iterations: int) -> float:
    """Squared error that the updates of Ding, Li and Jordan (2010) come to."""
    for _ in range(iterations):
        directions = torch.linalg.lstsq(codes.T @ codes, codes.T @ rows).solution
        dots, gram = rows @ directions.T, directions @ directions.T
        above = dots.relu() + codes @ (-gram).relu()
        codes = codes * (above / ((-dots).relu() + codes @ gram.relu())).sqrt()
    return float((rows - codes @ directions).square().sum())


def test_a_semi_factorisation_is_no_worse_than_by_multiplicative_updates(digits: Tensor) -> None:
    rows = (digits - digits.mean(0)).double()
    labels = cluster.KMeans(8, n_init=1, random_state=0).fit(rows.numpy()).labels_
    start = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 8).double() + 0.2
    dictionary = _fit(SemiNMF(d_sae=8), rows.float())
    assert float((rows - dictionary(rows.float())).square().sum()) < 1.005 * _multiplicative(rows, start, 100)
    assert (dictionary.directions() < 0).any()


@pytest.mark.parametrize("config", [NMF(d_sae=12), SemiNMF(d_sae=12)])
def test_the_error_falls_in_every_iteration_and_ends_where_the_dictionary_is(
    config: NonNegativeConfig, digits: Tensor
) -> None:
    rows = digits - (0.2 if isinstance(config, SemiNMF) else 0)
    dictionary = _fit(config, rows)
    losses = np.array(dictionary.history["loss"])
    assert dictionary.history["step"] == list(range(1, len(losses) + 1))
    assert (np.diff(losses) < 1e-5 * losses[0]).all()
    assert len(losses) < config.max_iter  # it settled
    found = float((rows - dictionary(rows)).square().sum(1).mean())
    assert found == pytest.approx(losses.min(), rel=0.02)
    assert dictionary.history["explained_variance"][-1] == pytest.approx(1 - _missed(rows, dictionary(rows)), abs=0.01)


def test_latents_that_no_row_uses_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _generator(6)
    parts = torch.eye(8)[:, torch.randperm(8, generator=generator)]
    rows = _sparse(300, 8, 0.3, generator) @ parts
    same = torch.ones(8, 8)
    monkeypatch.setattr(NMFDictionary, "start", lambda *_: same.clone())
    dictionary = _fit(NMF(d_sae=8), rows)
    assert dictionary.history["dead"][0] == 7  # the first of eight like ones takes all
    assert dictionary.history["dead"][-1] == 0
    assert _missed(rows, dictionary(rows)) < 0.01


def test_negative_entries_are_refused_and_counted() -> None:
    rows = torch.rand(20_000, 3, generator=_generator())
    rows[12_345, 1] = rows[12_345, 2] = rows[19_000, 0] = -1e-6
    with pytest.raises(InputError, match=r"have 3 of them, the first in row 12,345; use semi-nmf"):
        _fit(NMF(d_sae=2), rows)
    _fit(SemiNMF(d_sae=2, max_iter=2), rows)


def test_a_row_with_negative_entries_is_encoded_by_what_is_left_of_it() -> None:
    dictionary = _fit(NMF(d_sae=2), torch.eye(2).repeat(10, 1))
    codes = dictionary.encode(torch.tensor([[3.0, -2]]))
    torch.testing.assert_close(dictionary.decode(codes), torch.tensor([[3.0, 0]]))
