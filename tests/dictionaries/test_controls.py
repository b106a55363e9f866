from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import decomposition
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.one_sided import OneSidedConfig
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.random_directions import RandomDirections
from unweave.store.rows import TensorRows

CONTROLS = [PCA(), PCA(k=2), Neurons(), Neurons(k=2), RandomDirections(d_sae=20), RandomDirections(d_sae=20, k=4)]


def _fit(config: DictionaryConfig, rows: Tensor, seed: int = 0) -> Dictionary:
    dictionary = config.build(rows.shape[1])
    dictionary.prepare(TensorRows(rows), torch.Generator().manual_seed(seed))
    return dictionary


def _explained(dictionary: Dictionary, rows: Tensor) -> float:
    error = (rows - dictionary(rows)).double().square().sum()
    return float(1 - error / (rows - rows.mean(0)).double().square().sum())


@pytest.mark.parametrize("config", [Neurons(), PCA()])
def test_an_orthonormal_set_gives_rows_back(config: OneSidedConfig, rows: Tensor) -> None:
    control = _fit(config, rows)
    torch.testing.assert_close(control(rows), rows, atol=1e-4, rtol=1e-4)
    assert float(control.gain) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(control(rows + 100), rows + 100, atol=1e-3, rtol=1e-4)  # other rows too


def test_components_are_those_of_scikit_learn(rows: Tensor) -> None:
    control, reference = _fit(PCA(), rows), decomposition.PCA().fit(rows.double().numpy())
    components = control.V[:6].numpy()
    cosines = np.abs((components * reference.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    np.testing.assert_array_equal(control.V[6:].numpy(), -components)
    assert (components[np.arange(6), np.abs(components).argmax(1)] > 0).all()
    codes = control.encode(rows)
    scores = (codes[:, :6] - codes[:, 6:]).numpy()
    expected = reference.transform(rows.double().numpy()) * np.sign((components * reference.components_).sum(1))
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(control(rows).numpy(), reference.inverse_transform(reference.transform(rows)), atol=1e-4)


def test_the_k_strongest_components_of_a_row_beat_the_first_k(rows: Tensor) -> None:
    for k in range(1, 7):
        first = decomposition.PCA(n_components=k).fit(rows.numpy())
        error = float(((first.inverse_transform(first.transform(rows.numpy())) - rows.numpy()) ** 2).sum())
        control = _fit(PCA(k=k), rows)
        assert float((control(rows) - rows).square().sum()) <= error * (1 + 1e-4) + 1e-3


def test_latents_are_units_above_and_below_their_mean() -> None:
    control = _fit(Neurons(), torch.tensor([[0.0, 10.0], [2.0, 20.0]]))
    assert control.encode(torch.tensor([[3.0, 11.0]])).tolist() == [[2, 0, 0, 4]]
    assert control(torch.tensor([[3.0, 11.0]])).tolist() == [[3, 11]]
    strongest = _fit(Neurons(k=1), torch.tensor([[0.0, 10.0], [2.0, 20.0]]))
    assert strongest.encode(torch.tensor([[3.0, 11.0]])).tolist() == [[0, 0, 0, 4]]


@pytest.mark.parametrize("config", CONTROLS, ids=str)
def test_no_other_gain_reconstructs_better(config: OneSidedConfig, rows: Tensor) -> None:
    control = _fit(config, rows)
    gain, best = float(control.gain), float((control(rows) - rows).double().square().sum())
    for factor in (0, 0.5, 0.9, 0.99, 1.01, 1.1, 2):
        control.gain.fill_(gain * factor)
        assert float((control(rows) - rows).double().square().sum()) >= best - 1e-3


def test_random_directions_are_unit_and_even_and_follow_their_seed(rows: Tensor) -> None:
    control = _fit(RandomDirections(d_sae=4000), rows)
    torch.testing.assert_close(control.V.norm(dim=1), torch.ones(4000))
    assert float(control.V.mean(0).abs().max()) < 4 / (6 * 4000) ** 0.5
    torch.testing.assert_close(control.V.T @ control.V / 4000, torch.eye(6) / 6, atol=0.02, rtol=0)
    assert torch.equal(_fit(RandomDirections(d_sae=4000), rows).V, control.V)
    assert not torch.equal(_fit(RandomDirections(d_sae=4000), rows, seed=1).V, control.V)


@pytest.mark.parametrize("config", CONTROLS, ids=str)
@pytest.mark.parametrize("factor", [1e-20, 1e-3, 1e3, 1e18])
def test_units_of_measurement_do_not_matter(config: OneSidedConfig, rows: Tensor, factor: float) -> None:
    before, after = _fit(config, rows), _fit(config, rows * factor)
    assert _explained(after, rows.double().mul(factor).float()) == pytest.approx(_explained(before, rows), abs=1e-3)


@pytest.mark.parametrize("config", CONTROLS, ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (1, 1), (2, 30)])
def test_few_rows_and_narrow_rows_are_fitted(config: OneSidedConfig, shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    control = _fit(config, rows)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in control.state_dict().values())
    assert torch.isfinite(control(rows)).all()


@pytest.mark.parametrize("config", CONTROLS, ids=str)
def test_rows_that_are_all_the_same_are_their_mean(config: OneSidedConfig) -> None:
    rows = torch.full((20, 4), 0.3)
    torch.testing.assert_close(_fit(config, rows)(rows), rows)


@pytest.mark.parametrize("config", CONTROLS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused(config: OneSidedConfig, rows: Tensor, bad: float) -> None:
    broken = rows.clone()
    broken[7, 3] = bad
    with pytest.raises(InputError, match="NaN or Inf"):
        _fit(config, broken)


@pytest.mark.parametrize("make", [lambda k: PCA(k=k), lambda k: Neurons(k=k), lambda k: RandomDirections(k=k)])
def test_k_is_at_least_one_and_more_than_all_is_all(make: Callable[[int], OneSidedConfig], rows: Tensor) -> None:
    with pytest.raises(InputError, match="k must be at least 1"):
        make(0)
    everything, none = _fit(make(10_000), rows), _fit(make(1), rows)
    assert int((none.encode(rows) != 0).sum(1).max()) == 1
    pre = (rows - everything.mean) @ everything.V.T
    torch.testing.assert_close(everything.encode(rows), pre.relu())
