"""What holds for every registered dictionary: a new one is tested by being there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.dictionaries import base
from unweave.dictionaries.base import WEIGHTS, Dictionary, DictionaryConfig, Step, load
from unweave.store.artifact import MANIFEST
from unweave.store.rows import TensorRows

Small = Callable[[type[DictionaryConfig]], DictionaryConfig]
Prepared = Callable[[DictionaryConfig], Dictionary]
KINDS = DictionaryConfig.registry.members()


@pytest.fixture(params=sorted(KINDS))
def config(request: pytest.FixtureRequest, small: Small) -> DictionaryConfig:
    return small(KINDS[request.param])


@pytest.fixture
def dictionary(config: DictionaryConfig, prepared: Prepared) -> Dictionary:
    return prepared(config)


def test_shapes_are_as_declared(dictionary: Dictionary, rows: Tensor) -> None:
    codes = dictionary.encode(rows)
    assert codes.shape == (len(rows), dictionary.d_sae)
    assert dictionary.decode(codes).shape == rows.shape
    assert torch.equal(dictionary(rows), dictionary.decode(codes))
    assert dictionary.directions().shape == (dictionary.d_sae, dictionary.d_in)
    assert dictionary.encode(rows[0]).shape == (dictionary.d_sae,)
    assert dictionary.encode(rows.view(4, 50, 6)).shape == (4, 50, dictionary.d_sae)
    assert dictionary.encode(rows[:0]).shape == (0, dictionary.d_sae)


def test_codes_are_sparse_and_not_negative(dictionary: Dictionary, rows: Tensor) -> None:
    codes = dictionary.encode(rows)
    assert (codes >= 0).all()
    assert (codes != 0).any()
    k = getattr(dictionary.config, "k", None)
    assert k is None or int((codes != 0).sum(1).max()) <= k


def test_a_direction_is_what_one_unit_of_a_latent_adds(dictionary: Dictionary) -> None:
    origin = dictionary.decode(torch.zeros(dictionary.d_sae))
    torch.testing.assert_close(dictionary.decode(torch.eye(dictionary.d_sae)) - origin, dictionary.directions())


def test_a_saved_dictionary_comes_back_with_the_same_bits(dictionary: Dictionary, rows: Tensor, tmp_path: Path) -> None:
    dictionary.hook_name, dictionary.history = "fc1", {"step": [1.0, 2.0], "loss": [0.1, 0.2]}
    dictionary.to_inference().save(tmp_path / "a")
    found = load(tmp_path / "a")
    expected = dictionary.to_inference()
    assert type(found) is type(expected)
    assert (found.config, found.d_in, found.d_sae) == (expected.config, expected.d_in, expected.d_sae)
    assert (found.hook_name, found.history) == ("fc1", {"step": [1.0, 2.0], "loss": [0.1, 0.2]})
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    assert torch.equal(found.encode(rows), expected.encode(rows))
    assert torch.equal(found(rows), expected(rows))


def test_saving_twice_changes_nothing_and_other_weights_are_refused(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "a")
    stamp = (tmp_path / "a" / MANIFEST).stat().st_mtime_ns
    dictionary.save(tmp_path / "a")
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp
    next(iter(dictionary.state_dict().values())).add_(1)
    with pytest.raises(InputError, match="overwrite"):
        dictionary.save(tmp_path / "a")
    assert (tmp_path / "a" / MANIFEST).stat().st_mtime_ns == stamp
    dictionary.save(tmp_path / "a", overwrite=True)
    first = next(iter(load(tmp_path / "a").state_dict().values()))
    assert torch.equal(first, next(iter(dictionary.state_dict().values())))


def test_inference_agrees_is_frozen_and_apart(dictionary: Dictionary, rows: Tensor) -> None:
    frozen = dictionary.to_inference()
    torch.testing.assert_close(frozen.encode(rows), dictionary.encode(rows))
    torch.testing.assert_close(frozen(rows), dictionary(rows))
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    before = frozen.encode(rows)
    for tensor in dictionary.state_dict().values():
        tensor.fill_(0.5)
    assert torch.equal(frozen.encode(rows), before)


def test_all_of_it_is_in_the_state(dictionary: Dictionary, config: DictionaryConfig, rows: Tensor) -> None:
    other = config.build(rows.shape[1])
    other.load_state_dict(dictionary.state_dict())
    assert torch.equal(other.encode(rows), dictionary.encode(rows))
    assert torch.equal(other(rows), dictionary(rows))


@settings(max_examples=10)
@given(order=st.permutations(range(12)), cut=st.integers(1, 12))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_code_of_a_row_does_not_depend_on_its_batch(
    small: Small, prepared: Prepared, rows: Tensor, kind: str, order: list[int], cut: int
) -> None:
    dictionary = prepared(small(KINDS[kind])).to_inference()
    codes = dictionary.encode(rows[:12])
    torch.testing.assert_close(dictionary.encode(rows[order[:cut]]), codes[order[:cut]])


@pytest.mark.parametrize("chunk", [1, 3, 7, 200, 10_000])
def test_sparse_codes_are_the_dense_ones_in_any_chunks(
    dictionary: Dictionary, rows: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_ENCODE_BYTES", chunk * 4 * dictionary.d_sae)
    codes = dictionary.encode_sparse(rows)
    torch.testing.assert_close(codes.dense(), dictionary.encode(rows).detach())
    assert (codes.n, codes.d_sae) == (len(rows), dictionary.d_sae)
    assert (codes.value != 0).all()
    assert dictionary.encode_sparse(rows[:0]).n == 0


def test_the_same_generator_gives_the_same_start(config: DictionaryConfig, rows: Tensor) -> None:
    def start(seed: int) -> list[Tensor]:
        dictionary = config.build(6)
        dictionary.prepare(TensorRows(rows), torch.Generator().manual_seed(seed))
        return list(dictionary.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(start(0), start(0), strict=True))
    before = torch.get_rng_state()
    start(3)
    assert torch.equal(torch.get_rng_state(), before), "the process's own random numbers were used"


def test_rows_of_another_width_are_refused(config: DictionaryConfig, rows: Tensor) -> None:
    with pytest.raises(InputError, match="width 5, the data has 6"):
        config.build(5).prepare(TensorRows(rows), torch.Generator())
    with pytest.raises(InputError, match="at least one input"):
        config.build(0)


def test_rescaling_follows_the_rows(dictionary: Dictionary, rows: Tensor) -> None:
    if not dictionary.trained_by_gradient:
        with pytest.raises(InputError, match="cannot be rescaled"):
            dictionary.rescale(2.0)
        return
    codes, reconstruction = dictionary.encode(rows), dictionary(rows)
    dictionary.rescale(4.0)  # a power of two: exact
    torch.testing.assert_close(dictionary.encode(rows * 4), codes * 4)
    torch.testing.assert_close(dictionary(rows * 4), reconstruction * 4)


def test_the_loss_names_its_parts_and_says_what_it_came_from(dictionary: Dictionary, rows: Tensor) -> None:
    if not dictionary.trained_by_gradient:
        with pytest.raises(InputError, match="has no loss"):
            dictionary.loss(rows, Step(0))
        return
    losses = dictionary.loss(rows, Step(0, 10, torch.zeros(dictionary.d_sae, dtype=torch.bool)))
    torch.testing.assert_close(losses.total, torch.stack(list(losses.parts.values())).sum())
    torch.testing.assert_close(losses.codes, dictionary.encode(rows).detach())
    torch.testing.assert_close(losses.residual, (rows - dictionary(rows)).detach())
    assert not losses.codes.requires_grad
    assert not losses.residual.requires_grad
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in dictionary.parameters())


def test_the_loss_of_a_batch_is_the_mean_of_its_rows(dictionary: Dictionary, rows: Tensor) -> None:
    """A loss that grows with the batch would tie every weight to the batch size (but for one declared option)."""
    if dictionary.trained_by_gradient:
        once, thrice = (dictionary.loss(rows.repeat(times, 1), Step(0)).total for times in (1, 3))
        torch.testing.assert_close(once, thrice)
    assert dictionary.d_sae > 0


def test_the_configuration_comes_back_from_json(config: DictionaryConfig) -> None:
    assert from_json(DictionaryConfig, to_json(config)) == config


def test_damage_is_one_error_that_names_the_file(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=WEIGHTS):
            load(tmp_path / "a")
    path.unlink()
    with pytest.raises(StoreError, match=WEIGHTS):
        load(tmp_path / "a")
    with pytest.raises(StoreError, match="no Unweave artifact"):
        load(tmp_path)


def test_nothing_on_disk_is_a_pickle(dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.history = {"step": [1.0]}
    dictionary.save(tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {MANIFEST, WEIGHTS, "history.parquet"}
