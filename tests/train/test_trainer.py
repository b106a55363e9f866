import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import HISTORY, WEIGHTS, Step
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.matryoshka import Matryoshka
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.sae import SAE, Forward, SAEConfig
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows
from unweave.train import Training, train
from unweave.train.course import Course
from unweave.train.trainer import Trainer


def _prepared(config: SAEConfig, rows: Tensor) -> SAE:
    sae = config.build(rows.shape[1])
    assert isinstance(sae, SAE)
    sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    return sae


def _trainer(
    rows: Tensor,
    sae: SAE | None = None,
    *,
    total: int = 20,
    scale: float = 1.0,
    sparse: bool = True,
    **options: object,
) -> Trainer:
    return Trainer(
        sae or _prepared(TopK(d_sae=16, k=3), rows),
        Training(**options),
        CompiledKernels(),
        sparse=sparse,
        total=total,
        steps_per_epoch=5,
        scale=scale,
        variance=TensorRows(rows).moments().variance,
    )


def test_one_step_is_one_step_of_adam(rows: Tensor) -> None:
    config = TopK(d_sae=16, k=3, decoder_rate=4.0)
    sae = _prepared(config, rows)
    trainer = _trainer(
        rows, sae, schedule="constant", learning_rate=0.01, betas=(0.9, 0.999), scale=0.5, dead_window=1.0
    )
    reference = config.build(8)
    reference.load_state_dict(sae.state_dict())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in reference.named_parameters()}
    for step in range(1, 4):
        batch = rows[step * 10 : step * 10 + 10]
        trainer.train_batch(batch)
        reference.zero_grad()
        reference.loss(batch * 0.5, Step(step, None)).total.backward()
        along = (reference.W_dec.grad * reference.W_dec.detach()).sum(1, keepdim=True)
        reference.W_dec.grad -= along * reference.W_dec.detach()
        for name, p in reference.named_parameters():
            m, v = moments[name]
            m.mul_(0.9).add_(0.1 * p.grad)
            v.mul_(0.999).add_(0.001 * p.grad**2)
            rate = 0.04 if name == "W_dec" else 0.01
            p.data -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        reference.W_dec.data /= reference.W_dec.data.norm(dim=1, keepdim=True)
        for name, p in reference.named_parameters():
            torch.testing.assert_close(dict(sae.named_parameters())[name], p, atol=1e-5, rtol=1e-4)


def test_rows_of_the_decoder_stay_at_length_one(rows: Tensor) -> None:
    trainer = _trainer(rows, learning_rate=0.1)
    for _ in range(20):
        trainer.train_batch(rows)
        assert isinstance(trainer.dictionary, SAE)
        torch.testing.assert_close(trainer.dictionary.W_dec.norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("clip", [None, 1e-3, 1e9])
def test_the_whole_gradient_is_clipped(rows: Tensor, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer(rows, clip_norm=clip)
    seen: list[float] = []

    def look(_: Step) -> None:
        gradients = [p.grad for p in trainer.dictionary.parameters() if p.grad is not None]
        seen.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    monkeypatch.setattr(trainer.dictionary, "after_step", look)
    trainer.train_batch(rows)
    if clip == 1e-3:
        assert seen == pytest.approx([1e-3], rel=1e-3)
    else:
        assert seen[0] > 1


class _Scripted(SAE):
    """Latent j fires at the steps that the script says."""

    def __init__(self, script: list[set[int]]) -> None:
        super().__init__(ReLU(d_sae=3), 2)
        self.script = script
        self.dead_seen: list[list[int]] = []

    def activation(self, pre: Tensor) -> Tensor:
        active = torch.tensor([float(j in self.script[len(self.dead_seen)]) for j in range(3)])
        return pre * 0 + active

    def penalties(self, forward: Forward, step: Step) -> Mapping[str, Tensor]:
        assert step.dead is not None
        self.dead_seen.append(step.dead.nonzero().flatten().tolist())
        return {}


@pytest.mark.parametrize("config", [TopK(d_sae=16, k=3), BatchTopK(d_sae=16, k=3), JumpReLU(d_sae=16, target=3.0)])
def test_without_compiled_kernels_a_run_is_the_same_within_rounding(
    config: SAEConfig, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(epochs=3, batch_size=32, encoder_precision="float32", dead_firings=5)
    compiled = train(rows, config, training)
    monkeypatch.setattr(sys.modules[Course.__module__], "choose_kernels", lambda *_, **__: TorchKernels())
    plain = train(rows, config, training)
    for name, column in compiled.history.items():
        assert plain.history[name] == pytest.approx(column, rel=1e-2, abs=1e-2), name


def test_a_latent_is_dead_after_a_window_without_firing() -> None:
    script = [{0, 1}, {0}, {0}, {0, 2}, {0}, {0, 1}, {0}, {0}, {0}, {0}]
    trainer = _trainer(torch.ones(4, 2), _Scripted(script), total=10, dead_window=0.3, dead_firings=0)  # 3 steps
    for _ in script:
        trainer.train_batch(torch.ones(4, 2))
    # Before step s, a latent is dead that fired in none of the 3 steps before it.
    assert trainer.dictionary.dead_seen == [[], [], [], [2], [1], [1], [], [2], [2], [1, 2]]
    assert trainer.history["dead"] == [0, 0, 1, 1, 1, 0, 1, 1, 2, 2]  # after each step


def test_the_history_says_what_was_seen(rows: Tensor) -> None:
    trainer = _trainer(rows, total=4, learning_rate=1e-9, dead_window=1.0, dead_firings=0)
    sae, expected = trainer.dictionary, []
    spread = 10 * TensorRows(rows).moments().variance
    for batch in rows[:40].split(10):
        losses = sae.loss(batch, Step(0))
        l0 = (sae.encode(batch) != 0).sum() / 10
        expected.append([float(losses.total.detach()), float(l0), float(1 - 10 * losses.error / spread)])
        trainer.train_batch(batch)
    history = trainer.history
    assert history["step"] == [1, 2, 3, 4]
    found = list(zip(history["loss"], history["l0"], history["explained_variance"], strict=True))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert history["loss"] == pytest.approx(history["reconstruction"])
    assert history["learning_rate"] == [trainer.training.rate(step, 4, 5) for step in range(4)]


def test_an_interval_is_the_mean_of_its_steps(rows: Tensor) -> None:
    each = _trainer(rows, total=4, learning_rate=1e-9)
    pairs = _trainer(rows, total=4, learning_rate=1e-9)
    pairs._log_every = 2
    for batch in rows[:40].split(10):
        each.train_batch(batch)
        pairs.train_batch(batch)
    assert pairs.history["step"] == [2, 4]
    for name in ("loss", "l0", "reconstruction"):
        column = each.history[name]
        means = [(column[0] + column[1]) / 2, (column[2] + column[3]) / 2]
        assert pairs.history[name] == pytest.approx(means)


def test_a_part_that_comes_later_has_a_column_of_full_length(rows: Tensor) -> None:
    training = Training(steps=40, batch_size=32, dead_window=0.2, dead_firings=0)
    trained = train(rows[:64], TopK(d_sae=64, k=1, aux=1.0), training)
    aux = trained.history["aux"]
    assert {len(column) for column in trained.history.values()} == {40}
    assert aux[:8] == [0] * 8
    assert aux[-1] > 0
    total = torch.tensor(trained.history["loss"])
    torch.testing.assert_close(total, torch.tensor(trained.history["reconstruction"]) + torch.tensor(aux))


def test_long_runs_keep_about_200_points(rows: Tensor) -> None:
    history = train(rows[:8], ReLU(d_sae=2), Training(steps=403, batch_size=8)).history
    assert history["step"] == [*range(2, 403, 2), 403]


@pytest.mark.parametrize(
    "config",
    [
        TopK(d_sae=40, k=3, k_start=2.0),
        BatchTopK(d_sae=40, k=3),
        Matryoshka(d_sae=40, k=3),
        ReLU(d_sae=40, warm_up_share=0.5),
        ReLUKL(d_sae=40),
        JumpReLU(d_sae=40, target=4.0),
        Gated(d_sae=40, aux=0.5),
    ],
    ids=lambda config: config.kind,
)
def test_the_sparse_step_trains_as_autograd_does(rows: Tensor, config: SAEConfig) -> None:
    trainers = [
        _trainer(rows, _prepared(config, rows), sparse=sparse, total=8, dead_window=0.3, dead_firings=0, clip_norm=50.0)
        for sparse in (True, False)
    ]
    for batch in rows[:240].split(30):
        for trainer in trainers:
            trainer.train_batch(batch)
    assert [trainer.engine.partition(" ")[0] for trainer in trainers] == ["sparse", "dense"]
    sparse, dense = (trainer.dictionary.state_dict() for trainer in trainers)
    for name, tensor in sparse.items():
        torch.testing.assert_close(tensor, dense[name], atol=1e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert trainers[0].history.keys() == trainers[1].history.keys()
    for name, column in trainers[0].history.items():
        assert column == pytest.approx(trainers[1].history[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("sparse", [True, False])
def test_a_step_that_is_refused_does_not_count(rows: Tensor, sparse: bool) -> None:
    trainer = _trainer(rows, sparse=sparse)
    trainer.train_batch(rows[:10])
    tensors, values = trainer.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    bad = rows[10:20].clone()
    bad[3, 1] = torch.nan
    bad[7] = torch.inf
    with pytest.raises(InputError, match=r"step 1: 2 of 10 rows of the batch hold NaN or Inf \(rows 3, 7 of it\)"):
        trainer.train_batch(bad)
    with pytest.raises(InputError, match=r"step 1: the loss is no longer finite \(reconstruction inf.*learning_rate"):
        trainer.train_batch(1e25 * rows[10:20])
    after = trainer.state()
    assert after[1] == values
    assert all(torch.equal(tensor, before[name]) for name, tensor in after[0].items())
    trainer.train_batch(rows[10:20])
    assert trainer.step == 2


def test_dead_latents_start_anew_when_told_and_adam_forgets_them(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = _prepared(ReLU(d_sae=16, resample=0.25), rows)
    # After steps 5, 10 and 15, of 2 steps without firing.
    trainer = _trainer(rows, sae, total=20, dead_window=0.1, dead_firings=0)
    resample, step, found, forgotten = sae.resample, trainer._adam.step, {}, []

    def watched(at: Step, batch: Tensor) -> Tensor | None:
        if at.index == 9:
            sae.b_enc.data[[2, 11]] = -1000.0  # too late to count as dead
        if (anew := resample(at, batch)) is not None:
            found[at.index] = anew.tolist()
        return anew

    def look(rate: float) -> None:
        if trainer.step in found:
            latents = found[trainer.step]
            moments = trainer._adam.state()
            forgotten.append(not any(moments[f"b_enc.{kind}"][latents].any() for kind in ("first", "second")))
            assert moments["b_enc.second"].any()
        step(rate)

    monkeypatch.setattr(sae, "resample", watched)
    monkeypatch.setattr(trainer._adam, "step", look)
    for index in range(20):
        if index == 2:
            sae.b_enc.data[[3, 7]] = -1000.0
        trainer.train_batch(rows[:50])
        if index == 5:
            assert not trainer._dead()[[3, 7]].any()  # they have their time to fire
    assert {index: set(latents) & {2, 3, 7, 11} for index, latents in found.items()} == {5: {3, 7}, 15: {2, 11}}
    assert all(forgotten)


class StoppedError(Exception):
    """Stands for the kill."""


@pytest.mark.parametrize(
    "config",
    [
        TopK(d_sae=64, k=1, resample=0.2),
        BatchTopK(d_sae=64, k=1, resample=0.2, aux=0.0),
        JumpReLU(d_sae=64, target=1.0, resample=0.2),
    ],
    ids=lambda config: config.kind,
)
def test_a_run_that_starts_latents_anew_is_taken_up_with_the_same_bits(
    rows: Tensor, tmp_path: Path, config: SAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(steps=40, batch_size=32, dead_window=0.0, dead_firings=0)
    always = Runtime(checkpoint_seconds=0.0, device="cpu")
    train_batch, started_anew, stop = Trainer.train_batch, [], [-1]

    def stopping(self: Trainer, batch: Tensor, *rest) -> None:
        if self.step == stop[0]:
            raise StoppedError
        resample = self.dictionary.resample

        def noted(step: Step, rows: Tensor) -> Tensor | None:
            if (anew := resample(step, rows)) is not None:
                started_anew.append(step.index)
            return anew

        with monkeypatch.context() as patch:
            patch.setattr(self.dictionary, "resample", noted)
            train_batch(self, batch, *rest)

    monkeypatch.setattr(Trainer, "train_batch", stopping)
    train(rows, config, training, out=tmp_path / "whole" / "a", runtime=always)
    assert started_anew == [8, 16, 24, 32]
    for stop[0] in (8, 9, 24):  # just before a start, just after, and before another
        with pytest.raises(StoppedError):
            train(rows, config, training, out=tmp_path / "b" / "a", runtime=always)
    stop[0] = -1
    train(rows, config, training, out=tmp_path / "b" / "a", runtime=always)
    assert started_anew == [8, 16, 24, 32] * 2
    for name in (WEIGHTS, HISTORY):
        assert (tmp_path / "b" / "a" / name).read_bytes() == (tmp_path / "whole" / "a" / name).read_bytes()
