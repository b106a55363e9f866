"""The one trainer: a step, what is logged of it, and its whole state as tensors."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.distributed import ALONE
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.whole import WholeBatch
from unweave.train.adam import Adam
from unweave.train.parallel import combined, first_said
from unweave.train.split import Split
from unweave.train.training import Training
from unweave.train.transfer import Delayed

_LOG_POINTS = 200
_ENDLESS_WINDOW = 1000  # steps, where the length of the run is not known


class Trainer:
    """Trains one dictionary, batch by batch. Its state is a function of the batches seen, and can be taken up again."""

    def __init__(
        self,
        dictionary: Dictionary,
        training: Training,
        kernels: Kernels,
        *,
        total: int | None,
        steps_per_epoch: int | None,
        scale: float,
        variance: float,
        sparse: bool = True,
        split: Split | None = None,
    ) -> None:
        """Set up.

        Args:
            dictionary: prepared, for rows that are `scale` times as long as the batches.
            training: how.
            kernels: the operations of the step, entered as a context.
            total: steps of the run, where they are known.
            steps_per_epoch: steps of an epoch, where there are epochs.
            scale: what batches are multiplied with.
            variance: mean squared distance of the batches' rows to their mean, for explained variance.
            sparse: take the dictionary's sparse step, where it has one; else autograd's.
            split: of which this process holds a part, where the dictionary is one of several parts.
        """
        self.dictionary = dictionary
        self.training = training
        self.total = total
        self.step = 0
        self.history: dict[str, list[float]] = {}
        self._kernels = kernels
        self._split = split
        self._latents = ALONE if split is None else split.ranks
        self._sparse = sparse and dictionary.has_sparse_step()
        self._steps_per_epoch = steps_per_epoch
        self._scale = scale
        self._variance = variance * scale**2
        self._device = device = dictionary.device
        self._adam = Adam(dictionary, training.betas, kernels)
        self._log_every = max(1, (total or 0) // _LOG_POINTS) if total else 50
        # Two clocks, of steps and of active entries: what they show, what they showed when each latent fired last, and
        # how far they go on until a latent counts as dead.
        steps = max(1, round(training.dead_window * total)) if total else _ENDLESS_WINDOW
        d_sae = dictionary.d_sae if split is None else split.d_sae
        self._window = torch.tensor([[steps], [training.dead_firings * d_sae]], device=device)
        self._now = torch.zeros(2, 1, dtype=torch.int64, device=device)
        self._last_fired = torch.zeros(2, dictionary.d_sae, dtype=torch.int64, device=device)
        self._sums: dict[str, Tensor | float] = {}
        self._waits = device.type == "cpu"  # elsewhere, to ask for a number would stop the queue
        self._delayed = None if self._waits else Delayed(dictionary.d_sae, device)
        self._exact = torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64
        self._rate = 0.0

    @property
    def engine(self) -> str:
        """What the steps are computed with, as a run says it."""
        if self._sparse:
            return f"sparse step, {self._kernels.name}, {self._kernels.precision}"
        return "dense step, autograd"

    def train_batch(self, batch: Float[Tensor, "b d_in"], whole: WholeBatch | None = None) -> None:
        """One step.

        Args:
            batch: rows, all of them or those of this process.
            whole: all of them, where other processes hold some; every process ends the step with the same weights.

        Raises:
            InputError: NaN or Inf in the batch, or the loss is no longer finite; the step does not count.
        """
        dictionary = self.dictionary
        batch = batch.to(self._device, non_blocking=True)
        if self._scale != 1.0:
            batch = batch * self._scale
        step = self._where(whole or WholeBatch(latents=self._latents))
        if (started_anew := dictionary.resample(step, batch)) is not None:
            self._adam.forget(started_anew)
            self._last_fired[:, started_anew] = self._now
        losses = combined(dictionary, self._gradients(batch, step), step.whole)
        if self._split is not None:
            self._split.complete(dictionary)
        if self._waits and not math.isfinite(sum(float(part.detach()) for part in losses.parts.values())):
            raise InputError(first_said(not_finite(self.step, batch, losses), batch, step.whole))
        dictionary.project_gradients()
        if self.training.clip_norm is not None:
            self._adam.clip(self.training.clip_norm, self._latents)
        self._rate = self.training.rate(self.step, self.total, self._steps_per_epoch)
        self._adam.step(self._rate)
        dictionary.after_step(step)
        self.step += 1
        self._note(losses)
        if self.step % self._log_every == 0 or self.step == self.total:
            self._log(self._rate)

    def _gradients(self, batch: Tensor, step: Step) -> Losses:
        if self._sparse:
            return self.dictionary.gradients(batch, step, self._kernels)
        for parameter in self.dictionary.parameters():
            parameter.grad = None
        losses = self.dictionary.loss(batch, step)
        losses.total.backward()
        return losses

    def finish(self) -> None:
        """Log what is left where the end was not known."""
        if self._sums:
            self._log(self._rate)

    def _where(self, whole: WholeBatch) -> Step:
        """Where the run stands, with the latents that are dead now, or where to ask would wait, two steps ago."""
        dead = self._dead()
        if self._delayed is None:
            return Step(self.step, self.total, dead, whole=whole)
        latents = self._delayed.exchange(dead).nonzero().squeeze(1)
        if self._device.type == "cuda":
            latents = latents.pin_memory()
        return Step(self.step, self.total, dead, latents.to(self._device, non_blocking=True), whole)

    def _dead(self) -> Tensor:
        return (self._now - self._last_fired >= self._window).all(0)

    @torch.no_grad()
    def _note(self, losses: Losses) -> None:
        """Add one step to the interval's sums; this runs at every step, so it does little."""
        active = WholeBatch(latents=self._latents).over_latents(losses.fired.sum())
        self._now[0] += 1
        self._now[1] += active
        torch.where(losses.fired > 0, self._now, self._last_fired, out=self._last_fired)
        for name, value in (*losses.parts.items(), ("l0", active / losses.rows), ("_error", losses.error)):
            number = float(value.detach()) if self._waits else value.detach().to(self._exact)
            self._sums[name] = self._sums.get(name, 0.0) + number

    def _log(self, rate: float) -> None:
        """Close an interval: the means of its steps become one row of the history."""
        logged = len(self.history.get("step", []))
        steps = self.step - (int(self.history["step"][-1]) if logged else 0)
        means = {name: float(value) / steps for name, value in self._sums.items()}
        error = means.pop("_error")
        row = {
            "step": float(self.step),
            "loss": sum(value for name, value in means.items() if name != "l0"),
            **means,
            "explained_variance": 1 - error / self._variance if self._variance > 0 else 0.0,
            "dead": float(WholeBatch(latents=self._latents).over_latents(self._dead().sum())),
            "learning_rate": rate,
        }
        self._sums = {}
        if not math.isfinite(row["loss"]):
            raise InputError(
                f"the loss is {row['loss']} between steps {self.step - steps} and {self.step}: look for NaN "
                "or Inf in the activations, or try a lower learning rate or clip_norm"
            )
        for name in {**self.history, **row}:
            column = self.history.setdefault(name, [0.0] * logged)
            column.append(row.get(name, 0.0))

    def latest(self) -> dict[str, float]:
        """The newest logged numbers that a progress bar shows."""
        shown = {"loss": "loss", "l0": "L0", "explained_variance": "EV", "dead": "dead"}
        return {label: self.history[name][-1] for name, label in shown.items() if self.history.get(name)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain values.

        Of a dictionary in parts, all processes have to ask; the first gets the whole, the others nothing.
        """
        tensors = {f"dictionary.{name}": value for name, value in self.dictionary.state_dict().items()}
        tensors.update({f"adam.{name}": moment for name, moment in self._adam.state().items()})
        tensors.update({f"sum.{name}": torch.as_tensor(value, dtype=self._exact) for name, value in self._sums.items()})
        tensors.update(now=self._now, last_fired=self._last_fired)
        if self._delayed is not None:
            tensors["delayed"] = self._delayed.state()
        values = {"step": self.step, "history": self.history, "sums": list(self._sums)}
        return (tensors if self._split is None else self._split.gather(tensors)), values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up the state that `state` gave."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}

        tensors = tensors if self._split is None else self._split.part_of(tensors)
        self.dictionary.load_state_dict(below("dictionary."))
        self._adam.restore(below("adam."), int(values["step"]))
        sums = below("sum.")  # in the order of before: the columns of the history and the last bits of sums follow it
        self._sums = {n: float(sums[n]) if self._waits else sums[n].to(self._device) for n in values["sums"]}
        self._now, self._last_fired = (tensors[name].clone().to(self._device) for name in ("now", "last_fired"))
        if self._delayed is not None and "delayed" in tensors:
            self._delayed.restore(tensors["delayed"])
        self.step = int(values["step"])
        self.history = {name: list(column) for name, column in values["history"].items()}


def not_finite(step: int, batch: Float[Tensor, "b d_in"], losses: Losses) -> str:
    """What to say of a loss that is NaN or Inf: which rows of the batch are to blame, if any, and what to try."""
    bad = (~batch.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        some = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        return f"step {step}: {len(bad)} of {len(batch)} rows of the batch hold NaN or Inf (rows {some} of it)"
    parts = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.parts.items())
    return f"step {step}: the loss is no longer finite ({parts}); try a lower learning_rate, or set clip_norm"
