from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.train import Training, train

SHORT = Training(epochs=3, batch_size=32)


def _same_bits(first: Dictionary, second: Dictionary) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and first.history == second.history


def _explained(dictionary: Dictionary, rows: Tensor) -> float:
    error = (rows - dictionary(rows)).double().square().sum()
    return float(1 - error / (rows - rows.mean(0)).double().square().sum())


def test_the_same_seed_gives_the_same_bits_and_another_does_not(config: DictionaryConfig, rows: Tensor) -> None:
    first = train(rows, config, SHORT, seed=4)
    torch.rand(3)  # the process's own random numbers do not matter
    assert _same_bits(train(rows, config, SHORT, seed=4), first)
    assert not _same_bits(train(rows, config, SHORT, seed=5), first)


def test_the_result_is_frozen_and_knows_its_history(config: DictionaryConfig, rows: Tensor) -> None:
    trained = train(rows, config, SHORT)
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert not trained.training
    assert {"step", "loss", "l0", "explained_variance", "dead", "learning_rate"} <= trained.history.keys()
    assert trained.history["step"][-1] == 3 * 10


def test_training_learns(config: DictionaryConfig, rows: Tensor) -> None:
    trained = train(rows, config, Training(epochs=60, batch_size=32, learning_rate=1e-2))
    assert trained.history["loss"][-1] < 0.7 * trained.history["loss"][0]
    assert _explained(trained, rows) > 0.5


def test_a_planted_dictionary_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    active = torch.rand(4000, 16, generator=generator).argsort(1) < 2
    codes = active * (1 + torch.rand(4000, 16, generator=generator))
    training = Training(epochs=20, batch_size=128, learning_rate=1e-2)
    trained = train(codes @ planted, TopK(d_sae=32, k=2), training)
    cosines = planted @ trained.directions().T
    assert float(cosines.max(1).values.mean()) > 0.95
    random = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    assert float((planted @ random.T).max(1).values.mean()) < 0.7


@pytest.mark.parametrize("scale", [True, False])
def test_the_scale_of_training_is_folded_back(config: DictionaryConfig, rows: Tensor, scale: bool) -> None:
    """Trained on rows scaled by hand, codes and reconstructions are as many times as long."""
    factor = float((8 / (rows - rows.mean(0)).double().square().sum(1).mean()).sqrt())
    folded = train(rows, config, Training(epochs=3, batch_size=32, scale_inputs=scale))
    if not scale:
        assert folded.history["loss"] != train(rows, config, SHORT).history["loss"]
        return
    by_hand = train(rows * factor, config, Training(epochs=3, batch_size=32, scale_inputs=False))
    torch.testing.assert_close(folded.encode(rows) * factor, by_hand.encode(rows * factor), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(folded(rows) * factor, by_hand(rows * factor), atol=1e-3, rtol=1e-3)
    assert folded.history["loss"] == pytest.approx(by_hand.history["loss"], rel=1e-3)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e3, 1e12])
def test_units_of_measurement_do_not_matter(config: DictionaryConfig, rows: Tensor, factor: float) -> None:
    before, after = (train(rows * f, config, SHORT) for f in (1.0, factor))
    assert _explained(after, rows * factor) == pytest.approx(_explained(before, rows), abs=0.01)
    torch.testing.assert_close(after.directions(), before.directions(), atol=0.05, rtol=0)


def test_adding_a_constant_does_not_matter(rows: Tensor) -> None:
    before, after = train(rows, TopK(d_sae=16, k=3), SHORT), train(rows + 100, TopK(d_sae=16, k=3), SHORT)
    assert _explained(after, rows + 100) == pytest.approx(_explained(before, rows), abs=0.02)


@pytest.mark.parametrize("shape", [(1, 8), (30, 1), (1, 1), (5, 8)], ids=str)
def test_few_rows_and_narrow_rows_can_be_trained_on(config: DictionaryConfig, shape: tuple[int, int]) -> None:
    data = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    trained = train(data, config, Training(epochs=4, batch_size=1024))
    assert trained.history["step"] == [1, 2, 3, 4]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.state_dict().values())
    assert torch.isfinite(trained(data)).all()


@pytest.mark.parametrize("value", [0.0, 0.3, -1e4])
def test_rows_that_are_all_the_same_are_their_mean(config: DictionaryConfig, value: float) -> None:
    data = torch.full((50, 8), value)
    trained = train(data, config, Training(epochs=2, batch_size=16))
    torch.testing.assert_close(trained(data), data, rtol=1e-3, atol=1e-2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.state_dict().values())
    assert all(abs(value) < 1e3 for value in trained.history["loss"])


def test_k_may_be_all_latents_and_no_more(rows: Tensor) -> None:
    trained = train(rows, TopK(d_sae=4, k=4), SHORT)
    pre = (rows - trained.b_dec) @ trained.W_enc + trained.b_enc
    torch.testing.assert_close(trained.encode(rows), pre.relu())
    with pytest.raises(InputError, match=r"k must lie between 1 and d_sae \(4\), got 5"):
        TopK(d_sae=4, k=5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("stream", [False, True])
def test_rows_that_are_not_finite_are_named_before_the_first_step(
    config: DictionaryConfig, rows: Tensor, bad: float, stream: bool
) -> None:
    broken = rows.clone()
    broken[[200, 17], 3] = bad
    with pytest.raises(InputError, match=r"2 of 300 rows hold NaN or Inf \(the .*: 17, 200\)"):
        train(list(broken.split(32)) if stream else broken, config, None if stream else SHORT)


def test_rows_that_turn_bad_late_in_a_stream_are_found_at_their_step(rows: Tensor) -> None:
    late = rows[:10].clone()
    late[[2, 5]] = float("nan")
    with pytest.raises(InputError, match=r"step 30: 2 of 10 rows of the batch hold NaN or Inf \(rows 2, 5 of it\)"):
        train([*rows.split(10), late], TopK(d_sae=16, k=3))


def test_a_loss_that_is_no_longer_finite_stops_at_its_step(rows: Tensor) -> None:
    with pytest.raises(InputError, match=r"step \d+: the loss is no longer finite .*try a lower learning_rate"):
        train(rows, TopK(d_sae=16, k=3, decoder_norm="free"), Training(epochs=50, batch_size=32, learning_rate=1e30))


def test_a_stream_without_an_end_in_sight_is_taken_to_its_end(config: DictionaryConfig, rows: Tensor) -> None:
    taken: list[int] = []

    def stream() -> Iterator[Tensor]:
        for number, batch in enumerate(rows.split(4)):
            taken.append(number)
            yield batch

    trained = train(stream(), config)
    assert taken == list(range(75))
    assert trained.history["step"] == [50, 75]


def test_a_stream_and_the_rows_in_their_order_give_the_same(rows: Tensor) -> None:
    config, once = TopK(d_sae=16, k=3), Training(epochs=1, batch_size=32, shuffle=False)
    whole = train(rows, config, once)
    # The start is set from the first 16 batches: here from all ten.
    streamed = train(iter(rows.split(32)), config, Training(steps=10))
    assert _same_bits(whole, streamed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_streams_of_other_precision_are_taken(rows: Tensor, dtype: torch.dtype) -> None:
    batches = [batch.to(dtype).requires_grad_() for batch in rows.split(32)]
    trained = train(batches, TopK(d_sae=16, k=3))
    reference = train([batch.detach().float() for batch in batches], TopK(d_sae=16, k=3))
    assert _same_bits(trained, reference)


def test_a_stream_stops_after_its_steps(rows: Tensor) -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield rows[:10]

    assert train(endless(), ReLU(d_sae=4), Training(steps=40)).history["step"][-1] == 40


def test_a_stream_that_ends_early_says_where(rows: Tensor) -> None:
    with pytest.raises(InputError, match="ended after 10 of 11 steps"):
        train(rows.split(30), ReLU(d_sae=4), Training(steps=11))
    with pytest.raises(InputError, match="gave none"):
        train([], ReLU(d_sae=4))


@pytest.mark.parametrize("place", [0, 3, 25])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (torch.zeros(8), r"batch {} must be a floating-point tensor \[n, d_in\], got torch.float32 \[8\]"),
        (torch.zeros(2, 8, dtype=torch.int64), r"batch {} must be a floating-point tensor"),
        (torch.zeros(0, 8), "batch {} has no rows"),
        ((torch.zeros(2, 8), torch.zeros(2)), r"batch {} must be a tensor \[n, d_in\], got tuple"),
    ],
)
def test_a_batch_of_another_kind_is_named(rows: Tensor, place: int, wrong: Tensor, says: str) -> None:
    batches: list[Tensor] = list(rows.split(10))
    batches[place] = wrong
    with pytest.raises(InputError, match=says.format(place)):
        train(iter(batches), ReLU(d_sae=4))


@pytest.mark.parametrize("place", [3, 25])
def test_a_batch_of_another_width_is_named(rows: Tensor, place: int) -> None:
    batches = list(rows.split(10))
    batches[place] = torch.zeros(10, 7)
    with pytest.raises(InputError, match=f"batch {place} has rows of width 7, those before it 8"):
        train(iter(batches), ReLU(d_sae=4))


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(3, 2, 2), torch.zeros(3, 2).int(), torch.zeros(0, 2)])
def test_a_tensor_that_is_no_table_of_rows_is_refused(wrong: Tensor) -> None:
    with pytest.raises(InputError, match="activations"):
        train(wrong, ReLU(d_sae=4))


def test_a_classical_dictionary_is_fitted(rows: Tensor) -> None:
    trained = train(rows, PCA())
    torch.testing.assert_close(trained(rows), rows, atol=1e-4, rtol=1e-4)
    assert trained.history == {}


def test_a_device_that_is_not_there_is_refused(rows: Tensor) -> None:
    with pytest.raises(InputError, match="no device"):
        train(rows, ReLU(d_sae=4), runtime=Runtime(device="abacus"))


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same(config: DictionaryConfig, rows: Tensor) -> None:
    cpu, gpu = (train(rows, config, SHORT, runtime=Runtime(device=device)).cpu() for device in ("cpu", "cuda"))
    assert _explained(gpu, rows) == pytest.approx(_explained(cpu, rows), abs=0.02)
