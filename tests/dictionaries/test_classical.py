"""Independent components and k-means, and what holds for all classical methods: truths found, bounds, edges."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import decomposition
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.dictionaries import ica
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.classical import ClassicalConfig, sample_rows
from unweave.dictionaries.ica import ICA, ICADictionary
from unweave.dictionaries.kmeans import KMeans, KMeansDictionary, _without_empty
from unweave.dictionaries.nmf import NMF
from unweave.dictionaries.nonnegative import NonNegativeConfig
from unweave.dictionaries.semi_nmf import SemiNMF
from unweave.dictionaries.stored import load
from unweave.figures.curves import dictionary_curves
from unweave.store.rows import TensorRows
from unweave.train.stage import train

ALL = [
    ICA(),
    ICA(k=2),
    NMF(d_sae=5, max_iter=10),
    NMF(d_sae=8, k=2, max_iter=10),
    SemiNMF(d_sae=5, max_iter=10),
    SemiNMF(d_sae=8, k=2, max_iter=10),
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


def _laplace(n: int, d: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(n, d, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


@pytest.fixture(scope="module")
def skewed() -> Tensor:
    """150 rows of width 6: heavy-tailed, correlated, off centre, of unequal spread."""
    generator = _generator(3)
    mix = torch.randn(6, 6, generator=generator)
    return _laplace(150, 6, generator) @ mix * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]) + torch.arange(6.0)


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
