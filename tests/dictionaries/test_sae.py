from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.penalised import PenalisedConfig
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAE, SAEConfig
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import LargestConfig, TopK
from unweave.store.rows import TensorRows


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_tied_start(rows: Tensor) -> None:
    sae = TopK(d_sae=50, k=3).build(6)
    sae.prepare(TensorRows(rows), _generator())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(50))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.b_enc, torch.zeros(50))
    torch.testing.assert_close(sae.b_dec.data, rows.mean(0))


@pytest.mark.parametrize("config", [ReLU(d_sae=300), ReLUKL(d_sae=300)])
def test_relu_latents_start_with_reconstructions_of_the_right_length(config: SAEConfig, rows: Tensor) -> None:
    sae = config.build(6)
    sae.prepare(TensorRows(rows), _generator())
    sae = sae.to_inference()
    gain = float((sae.W_enc.T * sae.W_dec).sum(1).mean())
    assert 0 < gain < 0.1
    torch.testing.assert_close(sae.W_enc.data, gain * sae.W_dec.data.T)
    centred = rows - sae.b_dec
    left = {scale: float((centred - scale * (sae(rows) - sae.b_dec)).square().sum()) for scale in (0, 0.9, 1, 1.1)}
    assert min(left, key=left.__getitem__) == 1


@pytest.mark.parametrize(("init", "square"), [("kaiming", 6), ("torch", 1)])
def test_the_uniform_starts(rows: Tensor, init: Literal["kaiming", "torch"], square: int) -> None:
    sae = ReLU(d_sae=400, init=init, decoder_norm="free", b_dec="zero").build(6)
    sae.prepare(TensorRows(rows), _generator())
    for weight, fan_in in ((sae.W_enc, 6), (sae.W_dec, 400)):
        bound = (square / fan_in) ** 0.5
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert abs(float(weight.detach().mean())) < 0.05 * bound
    assert not sae.b_dec.any()
    normed = ReLU(d_sae=400, init=init).build(6)
    normed.prepare(TensorRows(rows), _generator())
    torch.testing.assert_close(normed.W_dec.norm(dim=1), torch.ones(400))


def test_which_rows_are_kept_at_length_one() -> None:
    for kind in (TopK, ReLU, ReLUKL, BatchTopK, Matryoshka, JumpReLU, Gated):
        assert kind(d_sae=40, decoder_rate=3.0).build(3).unit_rows() == {"W_dec": 3.0}
        assert kind(d_sae=40, decoder_norm="free").build(3).unit_rows() == {}


def test_what_belongs_to_a_latent_lies_together(rows: Tensor, tmp_path: Path) -> None:
    sae = TopK(d_sae=8, k=2).build(6)
    sae.prepare(TensorRows(rows), _generator())
    sae.save(tmp_path / "a")
    sae.loss(rows, Step(0)).total.backward()
    for weight in (sae.W_enc, sae.W_enc.grad, sae.to_inference().W_enc, load(tmp_path / "a").W_enc):
        assert weight.shape == (6, 8)
        assert weight.T.is_contiguous()


def test_codes_and_reconstruction_by_hand() -> None:
    sae = TopK(d_sae=3, k=1).build(2).to_inference()
    sae.W_enc.copy_(torch.tensor([[1.0, 0, 1], [0, 2, 0]]))
    sae.b_enc.copy_(torch.tensor([0.0, 1, -5]))
    sae.W_dec.copy_(torch.tensor([[1.0, 1], [0, 3], [7, 7]]))
    sae.b_dec.copy_(torch.tensor([1.0, 1]))
    # x − b_dec = (2, 3): pre = (2, 7, −3).
    assert sae.encode(torch.tensor([[3.0, 4]])).tolist() == [[0, 7, 0]]
    assert sae(torch.tensor([[3.0, 4]])).tolist() == [[1, 22]]
    # x − b_dec = (−1, −1): pre = (−1, −1, −6): nothing is active, and the bias alone is left.
    assert sae(torch.tensor([[0.0, 0]])).tolist() == [[1, 1]]


def test_a_penalty_rises_over_its_share_of_the_run() -> None:
    def weights(config: PenalisedConfig, total: int | None) -> list[float]:
        return [config.warm_up(Step(index, total)) for index in (0, 1, 2, 4, 5, 9)]

    assert weights(ReLU(warm_up_share=0.4), 10) == pytest.approx([0, 0.25, 0.5, 1, 1, 1])
    assert weights(ReLU(), 10) == [1] * 6
    assert weights(ReLU(warm_up_share=0.4), None) == [1] * 6  # where the run's length is not known


@pytest.mark.parametrize("kind", [TopK, BatchTopK, Matryoshka])
def test_k_falls_over_its_share_of_the_run(kind: type[LargestConfig]) -> None:
    def ks(total: int | None, **options: float) -> list[int]:
        config = kind(d_sae=100, k=10, **options)
        found = [config.k_at(Step(index, total)) for index in range(6)]
        rules = [config.build(3).rule(7, Step(index, total)) for index in range(6)]
        assert found == [rule.per_row or rule.in_batch // 7 for rule in rules]
        return found

    assert ks(10) == [10] * 6
    assert ks(10, k_start=3.0, k_anneal=0.4) == [30, 25, 20, 15, 10, 10]
    assert ks(10, k_start=1.5, k_anneal=0.2) == [15, 12, 10, 10, 10, 10]  # 12.5 is rounded to even
    assert ks(10, k_start=20.0, k_anneal=1.0) == [100, 100, 100, 100, 100, 100]  # there are no more latents
    assert ks(None, k_start=3.0) == [10] * 6


def _idle(config: SAEConfig, d_in: int) -> SAE:
    """A dictionary that reconstructs nothing: every row is missed as it is."""
    sae = config.build(d_in)
    sae.W_dec.data.fill_(d_in**-0.5)
    sae.W_enc.data.fill_(3.0)
    sae.b_enc.data.fill_(-1e30)
    return sae


def test_dead_latents_start_anew_at_rows_that_are_missed() -> None:
    sae = _idle(TopK(d_sae=5, k=2, resample=0.5), 3)
    sae.W_enc.data[:, 4] = torch.tensor([0.0, 4, 3])
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    batch = torch.tensor([[0.0, 1e-3, 0], [0, 3, 4], [1e-3, 0, 0]])
    dead = torch.tensor([False, True, False, True, False])
    found = sae.resample(Step(5, 10, dead), batch)
    assert found is not None
    assert found.tolist() == [1, 3]
    direction = torch.tensor([0, 0.6, 0.8])  # of the one row that counts: the others are missed 10⁻¹⁴ times as much
    live = (27**0.5 + 27**0.5 + 5) / 3
    torch.testing.assert_close(sae.W_dec.data[dead], direction.repeat(2, 1))
    torch.testing.assert_close(sae.W_enc.data.T[dead], direction.repeat(2, 1) * 0.2 * live)
    assert sae.b_enc.data[dead].tolist() == [0, 0]
    for name, value in sae.state_dict().items():
        old = before[name]
        kept = slice(None) if name == "b_dec" else (..., ~dead) if name == "W_enc" else ~dead
        assert torch.equal(value[kept], old[kept])


def test_rows_are_drawn_by_the_fourth_power_of_what_is_missed() -> None:
    sae = _idle(ReLU(d_sae=4000, resample=0.5), 2)
    sae.resample(Step(5, 10, torch.ones(4000, dtype=torch.bool)), torch.tensor([[1.0, 0], [0, 2]]))
    share = float((sae.W_dec.detach()[:, 1] == 1).float().mean())
    assert share == pytest.approx(16 / 17, abs=0.012)  # three standard deviations
    assert torch.equal(sae.W_dec.detach().sum(1), torch.ones(4000))


@pytest.mark.parametrize(("share", "total", "steps"), [(0.25, 100, [25, 50, 75]), (0.3, 10, [3, 6]), (0.9, 10, [])])
def test_it_is_time_after_each_share_of_the_run(share: float, total: int, steps: list[int]) -> None:
    sae, batch = _idle(ReLU(d_sae=4, resample=share), 2), torch.ones(3, 2)
    dead = torch.tensor([True, False, False, False])
    found = [step for step in range(total) if sae.resample(Step(step, total, dead), batch) is not None]
    assert found == steps


def test_nothing_starts_anew_without_a_reason() -> None:
    batch, dead = torch.ones(3, 2), torch.tensor([True, False, False, False])
    sae = _idle(ReLU(d_sae=4, resample=0.5), 2)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    assert sae.resample(Step(5, None, dead), batch) is None
    assert sae.resample(Step(5, 10, None), batch) is None
    assert sae.resample(Step(5, 10, torch.zeros_like(dead)), batch) is None
    assert sae.resample(Step(5, 10, dead), torch.zeros(3, 2)) is None  # nothing is missed
    assert _idle(ReLU(d_sae=4), 2).resample(Step(5, 10, dead), batch) is None
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


@pytest.mark.parametrize("length", [1e-11, 1e10])
def test_short_and_long_rows_are_drawn_as_others(length: float) -> None:
    sae = _idle(ReLU(d_sae=4, resample=0.5), 2)
    found = sae.resample(Step(5, 10, torch.ones(4, dtype=torch.bool)), torch.tensor([[0.0, length]]))
    assert found is not None
    torch.testing.assert_close(sae.W_dec.data, torch.tensor([[0.0, 1.0]] * 4))


@pytest.mark.parametrize("kind", [TopK, ReLU, ReLUKL, JumpReLU, Gated])
def test_a_latent_that_starts_anew_fires_on_its_row(kind: type[SAEConfig]) -> None:
    sae = kind(d_sae=40, resample=0.5).build(8)
    data = torch.randn(200, 8, generator=_generator())
    sae.prepare(TensorRows(data), _generator())
    dead = torch.arange(40) < 5
    for name, value in (("b_enc", -1000.0), ("b_mag", -1000.0), ("threshold", 1000.0)):
        if hasattr(sae, name):
            getattr(sae, name).data[dead] = value
    assert not sae.encode(data)[:, dead].any()
    assert sae.resample(Step(5, 10, dead), data) is not None
    assert (sae.encode(data)[:, dead] > 0).any(0).all()
