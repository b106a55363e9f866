from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Step
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.sae import SAE, Forward
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows
from unweave.train import Training, train
from unweave.train.trainer import Trainer


def _trainer(
    rows: Tensor, sae: SAE | None = None, *, total: int = 20, scale: float = 1.0, **options: object
) -> Trainer:
    if sae is None:
        sae = TopK(d_sae=16, k=3).build(8)
        sae.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    return Trainer(
        sae,
        Training(**options),
        CompiledKernels(),
        total=total,
        steps_per_epoch=5,
        scale=scale,
        variance=TensorRows(rows).moments().variance,
    )


def test_one_step_is_one_step_of_adam(rows: Tensor) -> None:
    trainer = _trainer(rows, schedule="constant", learning_rate=0.01, scale=0.5, dead_window=1.0)
    sae = trainer.dictionary
    reference = TopK(d_sae=16, k=3).build(8)
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
            p.data -= 0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
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

    def look() -> None:
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


def test_a_latent_is_dead_after_a_window_without_firing() -> None:
    script = [{0, 1}, {0}, {0}, {0, 2}, {0}, {0, 1}, {0}, {0}, {0}, {0}]
    trainer = _trainer(torch.ones(4, 2), _Scripted(script), total=10, dead_window=0.3)  # 3 steps
    for _ in script:
        trainer.train_batch(torch.ones(4, 2))
    # Before step s, a latent is dead that fired in none of the 3 steps before it.
    assert trainer.dictionary.dead_seen == [[], [], [], [2], [1], [1], [], [2], [2], [1, 2]]
    assert trainer.history["dead"] == [0, 0, 1, 1, 1, 0, 1, 1, 2, 2]  # after each step


def test_the_history_says_what_was_seen(rows: Tensor) -> None:
    trainer = _trainer(rows, total=4, learning_rate=1e-9, dead_window=1.0)
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
    trained = train(rows[:64], TopK(d_sae=64, k=1, aux=1.0), Training(steps=40, batch_size=32, dead_window=0.2))
    aux = trained.history["aux"]
    assert {len(column) for column in trained.history.values()} == {40}
    assert aux[:8] == [0] * 8
    assert aux[-1] > 0
    total = torch.tensor(trained.history["loss"])
    torch.testing.assert_close(total, torch.tensor(trained.history["reconstruction"]) + torch.tensor(aux))


def test_long_runs_keep_about_200_points(rows: Tensor) -> None:
    history = train(rows[:8], ReLU(d_sae=2), Training(steps=403, batch_size=8)).history
    assert history["step"] == [*range(2, 403, 2), 403]
