"""Independent components, non-negative factorisations and k-means: planted truths, exact solutions, bounds, edges."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn import cluster, decomposition
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.dictionaries import ica
from unweave.dictionaries.base import Dictionary, DictionaryConfig, load
from unweave.dictionaries.classical import ClassicalConfig, sample_rows
from unweave.dictionaries.ica import ICA, ICADictionary
from unweave.dictionaries.kmeans import KMeans, KMeansDictionary, _without_empty
from unweave.dictionaries.nmf import NMF, NMFDictionary
from unweave.dictionaries.nonnegative import NonNegative, NonNegativeConfig
from unweave.dictionaries.semi_nmf import SemiNMF
from unweave.figures.curves import dictionary_curves
from unweave.store.rows import TensorRows
from unweave.train.stage import train

ALL = [
    ICA(),
    ICA(k=2),
    NMF(d_sae=5, max_iter=20),
    NMF(d_sae=8, k=2, max_iter=20),
    SemiNMF(d_sae=5, max_iter=20),
    SemiNMF(d_sae=8, k=2, max_iter=20),
    KMeans(d_sae=5),
]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fit(config: DictionaryConfig, rows: Tensor, seed: int = 0) -> Dictionary:
    dictionary = config.build(rows.shape[1])
    dictionary.prepare(TensorRows(rows), _generator(seed))
    return dictionary


def _taken(config: DictionaryConfig, rows: Tensor) -> Tensor:
    """The rows as this kind takes them."""
    return rows.abs() if isinstance(config, NMF) else rows


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


def _laplace(n: int, d: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(n, d, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


@pytest.fixture(scope="module")
def skewed() -> Tensor:
    """150 rows of width 6: heavy-tailed, correlated, off centre, of unequal spread."""
    generator = _generator(3)
    mix = torch.randn(6, 6, generator=generator)
    return _laplace(150, 6, generator) @ mix * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]) + torch.arange(6.0)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.from_numpy(load_digits().data[:400]).float() / 16


# Independent components


def test_independent_sources_are_found_from_their_mixture() -> None:
    generator = _generator(1)
    sources, mix = _laplace(4000, 6, generator), torch.randn(6, 6, generator=generator)
    dictionary = _fit(ICA(), sources @ mix + 5)
    found = dictionary.directions()[:6]
    cosines = (normalize(mix, dim=1) @ found.T).abs()
    assert cosines.amax(1).min() > 0.995
    assert sorted(cosines.argmax(1).tolist()) == list(range(6))  # one each
    codes = dictionary.encode(sources @ mix + 5)
    together = torch.corrcoef(torch.cat([sources.T, (codes[:, :6] - codes[:, 6:]).T]))[:6, 6:].abs()
    assert together.amax(1).min() > 0.995


def test_no_seed_stays_between_two_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sine and a square wave, mixed: from one random start in five the iteration ends at a saddle."""
    time = torch.linspace(0, 14 * math.pi, 3000)
    sources = torch.stack([time.sin() + 1, (3 * time).sin().sign() + 1], 1)
    rows = sources @ torch.tensor([[1, 0.4], [0.6, 1]])

    def worst(seed: int) -> float:
        codes = _fit(ICA(), rows, seed).encode(rows)
        scores = codes[:, :2] - codes[:, 2:]
        return float(torch.corrcoef(torch.cat([sources.T, scores.T]))[:2, 2:].abs().amax(1).min())

    assert min(worst(seed) for seed in range(10)) > 0.99
    monkeypatch.setattr(ica, "_pairs_to_turn", lambda _: [])
    assert min(worst(seed) for seed in range(10)) < 0.95  # seeds 2 and 9


def test_all_components_give_any_row_back(skewed: Tensor) -> None:
    dictionary = _fit(ICA(), skewed)
    # Weights are rounded to float32, and what the encoder magnifies of that the decoder does not take back.
    rounding = 1e-7 * float(torch.linalg.cond(torch.cov(skewed.T.double())) ** 0.5)
    for rows in (skewed, skewed + 100, -skewed):
        torch.testing.assert_close(dictionary(rows), rows, atol=rounding * float(rows.norm(dim=1).max()), rtol=1e-6)
    torch.testing.assert_close(dictionary.directions().norm(dim=1), torch.ones(12))
    assert float((dictionary.encode(skewed) != 0).sum(1).max()) <= 6  # one side of each component


def test_some_components_give_back_what_as_many_principal_components_do(skewed: Tensor) -> None:
    reference = decomposition.PCA(n_components=3).fit(skewed.numpy())
    expected = reference.inverse_transform(reference.transform(skewed.numpy()))
    found = _fit(ICA(n_components=3), skewed)(skewed)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-3, rtol=1e-4)


def test_components_stand_by_variance_with_their_largest_entry_positive(skewed: Tensor) -> None:
    dictionary = _fit(ICA(), skewed)
    codes, directions = dictionary.encode(skewed), dictionary.directions()
    scores = codes[:, :6] - codes[:, 6:]
    variance = scores.var(0, correction=0)
    assert (variance.diff() <= 1e-4 * variance[0]).all()
    assert (directions[:6].gather(1, directions[:6].abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.equal(directions[6:], -directions[:6])
    torch.testing.assert_close(torch.corrcoef(scores.T), torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(scores.mean(0), torch.zeros(6), atol=1e-3, rtol=0)


def test_components_are_those_of_scikit_learn() -> None:
    generator = _generator(2)
    rows = _laplace(3000, 4, generator) @ torch.randn(4, 4, generator=generator)
    reference = decomposition.FastICA(whiten="unit-variance", random_state=0).fit(rows.double().numpy())
    mixing = torch.from_numpy(reference.mixing_.T).float()
    cosines = (normalize(mixing, dim=1) @ _fit(ICA(), rows).directions()[:4].T).abs()
    assert cosines.amax(1).min() > 0.9999


def test_what_has_no_variance_stays_principal(skewed: Tensor) -> None:
    flat = skewed.clone()
    flat[:, 3:] = torch.tensor([7.0, -1, 2])
    dictionary = _fit(ICA(), flat)
    directions = dictionary.directions()[:6]
    torch.testing.assert_close(dictionary(flat), flat, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dictionary(skewed), skewed, atol=1e-3, rtol=1e-4)  # no row is out of reach
    torch.testing.assert_close(directions[3:] @ directions.T, torch.eye(6)[3:], atol=1e-5, rtol=0)
    assert not (dictionary.encode(flat)[:, [3, 4, 5, 9, 10, 11]] > 1e-4).any()


def test_the_strongest_sides_stay_and_no_other_gain_is_better(skewed: Tensor) -> None:
    everything, dictionary = _fit(ICA(), skewed), _fit(ICA(k=2), skewed)
    assert isinstance(dictionary, ICADictionary)
    expected = everything.encode(skewed)
    kept = expected.topk(2).values[:, 1:]
    torch.testing.assert_close(dictionary.encode(skewed), torch.where(expected >= kept, expected, 0.0))
    best = _missed(skewed, dictionary(skewed))
    for factor in (0.5, 0.9, 1.1, 2):
        dictionary.W_dec.mul_(factor)
        assert _missed(skewed, dictionary(skewed)) > best
        dictionary.W_dec.div_(factor)


# Non-negative factorisations


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
    rows = _sparse(500, 18, 0.15, generator) @ truth
    found = _fit(kind(d_sae=24, k=4), rows).directions()
    chance = normalize(torch.randn(24, 12, generator=generator), dim=1)
    cosines = _cosines(truth, found)
    assert cosines.mean() > 0.97
    assert _cosines(truth, chance.abs() if kind is NMF else chance).mean() < 0.9
    assert float((cosines > 0.95).float().mean()) > 0.85


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


# k-means


def test_clusters_by_hand() -> None:
    dictionary = _fit(KMeans(d_sae=2), torch.tensor([[0.0], [1], [10], [11]]))
    assert isinstance(dictionary, KMeansDictionary)
    assert float(dictionary.b_dec) == 5.5
    order = dictionary.W_dec[:, 0].argsort()
    torch.testing.assert_close(dictionary.W_dec[order, 0], torch.tensor([-5.0, 5]))
    codes = dictionary.encode(torch.tensor([[-3.0], [5], [6], [100]]))[:, order]
    assert codes.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    torch.testing.assert_close(dictionary(torch.tensor([[4.0]])), torch.tensor([[0.5]]))


def test_planted_clusters_are_found_and_rows_go_to_the_nearest() -> None:
    generator = _generator(8)
    centres = 10 * torch.randn(12, 5, generator=generator)
    rows = centres[torch.arange(600) % 12] + 0.1 * torch.randn(600, 5, generator=generator)
    dictionary = _fit(KMeans(d_sae=12), rows)
    found = dictionary.directions() + dictionary.decode(torch.zeros(12))
    assert torch.cdist(centres, found).amin(1).max() < 0.1
    codes = dictionary.encode(rows)
    assert ((codes == 0) | (codes == 1)).all()
    assert (codes.sum(1) == 1).all()
    assert torch.equal(codes.argmax(1), torch.cdist(rows.double(), found.double()).argmin(1))
    torch.testing.assert_close(dictionary(rows), found[codes.argmax(1)])
    assert dictionary.history["dead"] == [0]


def test_of_equally_near_centres_the_first_is_taken() -> None:
    dictionary = KMeans(d_sae=4).build(2)
    dictionary.W_dec.copy_(torch.tensor([[5.0, 5], [0.1, 0.3], [0.3, 0.1], [0.1, 0.3]]))
    halfway = torch.tensor([[0.2, 0.2], [0.7, 0.7], [0.1, 0.3]])
    for rows in (halfway, halfway.repeat(100, 1), halfway[:1], halfway[2]):
        assert set(dictionary.encode(rows).argmax(-1).flatten().tolist()) == {1}


def test_as_many_clusters_as_rows_are_the_rows(skewed: Tensor) -> None:
    dictionary = _fit(KMeans(d_sae=150), skewed)
    torch.testing.assert_close(dictionary(skewed), skewed, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="151 clusters need at least as many rows, got 150"):
        _fit(KMeans(d_sae=151), skewed)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_fewer_different_rows_than_clusters_are_refused(value: float) -> None:
    rows = torch.full((50, 3), value)
    with pytest.raises(InputError, match="as many different rows, of 50 only 1 differ"):
        _fit(KMeans(d_sae=2), rows)
    torch.testing.assert_close(_fit(KMeans(d_sae=1), rows)(rows), rows)
    rows[:3] += torch.arange(1.0, 4)[:, None]
    with pytest.raises(InputError, match="as many different rows, of 50 only 4 differ"):
        _fit(KMeans(d_sae=5), rows)
    torch.testing.assert_close(_fit(KMeans(d_sae=4), rows)(rows), rows)


def test_empty_clusters_move_to_the_farthest_rows() -> None:
    rows = torch.tensor([[0.0], [0.1], [7], [0.2], [-5]])
    moved = _without_empty(rows, torch.tensor([[0.1], [50], [60]]))
    assert moved.tolist() == [[pytest.approx(0.1)], [7], [-5]]


def test_a_row_that_is_not_finite_has_no_cluster() -> None:
    dictionary = _fit(KMeans(d_sae=2), torch.tensor([[0.0], [1], [10], [11]]))
    codes = dictionary.encode(torch.tensor([[math.nan], [math.inf], [1]]))
    assert codes[:2].isnan().any(1).all()
    assert codes[2].sum() == 1


# All of them


@pytest.mark.parametrize("config", ALL, ids=str)
def test_the_same_seed_gives_the_same_bits(config: ClassicalConfig, skewed: Tensor) -> None:
    rows = _taken(config, skewed)
    few = dataclasses.replace(config, fit_rows=100)
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002 - that it stays is the point
    first, again, other = _fit(few, rows), _fit(few, rows), _fit(few, rows, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert first.history == again.history
    assert not all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("config", ALL, ids=str)
def test_saved_and_read_back_it_has_the_same_bits(config: ClassicalConfig, skewed: Tensor, tmp_path: Path) -> None:
    rows = _taken(config, skewed)
    dictionary = train(rows, config, seed=3, out=tmp_path / "a")
    found = load(tmp_path / "a")
    assert found.history == dictionary.history
    assert all(tensor.dtype == torch.float32 for tensor in found.state_dict().values())
    assert torch.equal(found.encode(rows), dictionary.encode(rows))
    assert torch.equal(found(rows), dictionary(rows))


@pytest.mark.parametrize("config", ALL, ids=str)
def test_a_row_does_not_see_its_batch(config: ClassicalConfig, skewed: Tensor) -> None:
    dictionary = _fit(config, _taken(config, skewed))
    codes = dictionary.encode(skewed)
    for order in (torch.arange(150).flip(0), torch.randperm(150, generator=_generator()), torch.arange(3)):
        torch.testing.assert_close(dictionary.encode(skewed[order]), codes[order])
    for row in range(0, 150, 19):
        torch.testing.assert_close(dictionary.encode(skewed[row]), codes[row])
    loud = torch.cat([skewed[:10], 1000 * skewed[10:]])
    torch.testing.assert_close(dictionary.encode(loud)[:10], codes[:10])
    many = skewed.repeat(30, 1)  # beyond one chunk
    torch.testing.assert_close(dictionary.encode(many)[-150:], codes)


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_units_of_measurement_do_not_matter(config: ClassicalConfig, factor: float, skewed: Tensor) -> None:
    rows = _taken(config, skewed)
    scaled = rows * factor
    before, after = _fit(config, rows), _fit(config, scaled)
    assert _missed(scaled, after(scaled)) == pytest.approx(_missed(rows, before(rows)), abs=1e-3)


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (9, 1), (1, 1), (2, 30), (6, 6)])
def test_few_and_narrow_rows_are_fitted_or_refused(config: ClassicalConfig, shape: tuple[int, int]) -> None:
    rows = _taken(config, torch.randn(shape, generator=_generator(shape[1])))
    if isinstance(config, KMeans) and shape[0] < config.d_sae:
        with pytest.raises(InputError, match="need at least as many rows"):
            _fit(config, rows)
        return
    dictionary = _fit(config, rows)
    for tensor in (*dictionary.state_dict().values(), dictionary.encode(rows), dictionary(rows)):
        assert torch.isfinite(tensor).all()
    assert all(math.isfinite(value) for column in dictionary.history.values() for value in column)
    if shape[0] == 1:
        torch.testing.assert_close(dictionary(rows), rows, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", [*ALL[:-1], KMeans(d_sae=1)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_rows_that_are_all_the_same_come_back(config: ClassicalConfig, value: float) -> None:
    rows = torch.full((20, 4), value)
    dictionary = _fit(config, rows)
    # The factorisations start at parts that give the row at once; so alike, they share it out slowly when encoding.
    within = 0.02 if isinstance(config, NonNegativeConfig) else 1e-6
    torch.testing.assert_close(dictionary(rows), rows, atol=0, rtol=within)
    assert dictionary.history["explained_variance"][-1] == 0


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused(config: ClassicalConfig, bad: float, skewed: Tensor) -> None:
    broken = skewed.clone()
    broken[7, 3] = bad
    with pytest.raises(InputError, match="NaN or Inf"):
        _fit(config, broken)


class _Counted(TensorRows):
    """Counts the rows that it hands out."""

    given = 0

    def blocks(self, rows: int) -> Iterator[Tensor]:
        for block in super().blocks(rows):
            self.given += len(block)
            yield block

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True, skip: int = 0
    ) -> Iterator[Tensor]:
        for batch in super().batches(batch_size, seed=seed, epoch=epoch, shuffle=shuffle, skip=skip):
            self.given += len(batch)
            yield batch


@pytest.mark.parametrize("config", [ICA(), SemiNMF(d_sae=4), KMeans(d_sae=5)], ids=str)
def test_no_more_rows_are_read_than_the_fit_takes(config: ClassicalConfig) -> None:
    rows = _Counted(torch.randn(30_000, 4, generator=_generator()))
    dataclasses.replace(config, fit_rows=300).build(4).prepare(rows, _generator())
    assert rows.given == 300


def test_a_sample_is_drawn_from_everywhere_and_no_row_twice() -> None:
    source = TensorRows(torch.arange(50_000.0)[:, None])
    drawn = sample_rows(source, 9000, _generator()).squeeze(1)
    assert len(drawn) == len(drawn.unique()) == 9000
    assert (torch.histc(drawn, 10, 0, 50_000) > 750).all()
    assert torch.equal(sample_rows(source, 9000, _generator()).squeeze(1), drawn)
    assert not torch.equal(sample_rows(source, 9000, _generator(1)).squeeze(1), drawn)
    assert torch.equal(sample_rows(source, 50_000, _generator()).squeeze(1), torch.arange(50_000.0))


@pytest.mark.parametrize("config", ALL, ids=str)
def test_a_fit_that_is_cut_short_says_so_in_the_history_alone(config: ClassicalConfig, skewed: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dictionary = _fit(dataclasses.replace(config, max_iter=1), _taken(config, skewed))
    assert dictionary.history["step"] == [1]
    assert torch.isfinite(dictionary(skewed)).all()
    assert dictionary_curves(dictionary.history) is not None  # what the report draws


def _ica(**options: object) -> Callable[[], object]:
    return lambda: ICA(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_ica(k=0), "k must be at least 1"),
        (_ica(fit_rows=0), "fit_rows must be at least 1"),
        (_ica(max_iter=0), "max_iter must be at least 1"),
        (_ica(n_components=0), "n_components must be at least 1"),
        (lambda: ICA(n_components=5).build(4), "rows of width 4 have at most 4 components"),
        (lambda: ICA().build(0), "at least one input"),
        (lambda: NMF(k=0), "k must be at least 1"),
        (lambda: NMF(max_iter=0), "max_iter must be at least 1"),
        (lambda: NMF(sweeps=0), "sweeps must be at least 1"),
        (lambda: SemiNMF(tol=math.nan), "tol must be at least 0"),
        (lambda: SemiNMF(d_sae=0).build(3), "at least one input and one latent"),
        (lambda: KMeans(d_sae=0).build(3), "at least one input and one latent"),
        (lambda: KMeans(d_sae=100, fit_rows=99), "d_sae 100, fit_rows 99"),
        (lambda: KMeans(max_iter=0), "max_iter must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()


@pytest.mark.parametrize("config", ALL, ids=str)
def test_rows_of_another_width_are_refused(config: ClassicalConfig, skewed: Tensor) -> None:
    with pytest.raises(InputError, match="width 5, the data has 6"):
        config.build(5).prepare(TensorRows(skewed), _generator())
