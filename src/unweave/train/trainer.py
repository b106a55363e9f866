"""The one trainer: a step, what is logged of it, and its whole state as tensors."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.train.training import Training

_LOG_POINTS = 200


class Trainer:
    """Trains one dictionary, batch by batch. Its state is a function of the batches seen, and can be taken up again."""

    def __init__(
        self,
        dictionary: Dictionary,
        training: Training,
        *,
        total: int | None,
        steps_per_epoch: int | None,
        scale: float,
        variance: float,
    ) -> None:
        """Set up.

        Args:
            dictionary: prepared, for rows that are `scale` times as long as the batches.
            training: how.
            total: steps of the run, where they are known.
            steps_per_epoch: steps of an epoch, where there are epochs.
            scale: what batches are multiplied with.
            variance: mean squared distance of the batches' rows to their mean, for explained variance.
        """
        self.dictionary = dictionary
        self.training = training
        self.total = total
        self.step = 0
        self.history: dict[str, list[float]] = {}
        self._steps_per_epoch = steps_per_epoch
        self._scale = scale
        self._variance = variance * scale**2
        device = dictionary.device
        self._fused = device.type in {"cpu", "cuda"}
        self._optimizer = torch.optim.Adam(
            dictionary.parameters(),
            lr=training.learning_rate,
            betas=training.betas,
            fused=self._fused,
        )
        self._log_every = max(1, (total or 0) // _LOG_POINTS) if total else 50
        self._window = max(1, round(training.dead_window * total)) if total else 1000
        self._last_fired = torch.zeros(dictionary.d_sae, dtype=torch.int64, device=device)
        self._sums: dict[str, Tensor] = {}
        self._exact = torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64
        self._rate = 0.0

    def train_batch(self, batch: Float[Tensor, "b d_in"]) -> None:
        """One step."""
        dictionary, training = self.dictionary, self.training
        batch = batch.to(dictionary.device, non_blocking=True)
        if self._scale != 1.0:
            batch = batch * self._scale
        rate = training.rate(self.step, self.total, self._steps_per_epoch)
        self._optimizer.param_groups[0]["lr"] = rate
        losses = dictionary.loss(batch, Step(self.step, self.total, self._dead()))
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        dictionary.project_gradients()
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(dictionary.parameters(), training.clip_norm)
        self._optimizer.step()
        dictionary.after_step()
        self.step += 1
        self._note(losses)
        if self.step % self._log_every == 0 or self.step == self.total:
            self._log(rate)
        self._rate = rate

    def finish(self) -> None:
        """Log what is left where the end was not known."""
        if self._sums:
            self._log(self._rate)

    def _dead(self) -> Tensor:
        return self.step - self._last_fired >= self._window

    @torch.no_grad()
    def _note(self, losses: Losses) -> None:
        """Add one step to the interval's sums; this runs at every step, so it reads the codes once."""
        rows = len(losses.codes)
        fired = (losses.codes != 0).sum(0)
        self._last_fired.masked_fill_(fired > 0, self.step)
        numbers = {name: value.detach() for name, value in losses.parts.items()}
        numbers.update(l0=fired.sum() / rows, _error=losses.residual.square().sum() / rows)
        for name, value in numbers.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.to(self._exact)

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
            "dead": float(self._dead().sum()),
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
        """Everything that the next step depends on: tensors, and plain values."""
        tensors = {f"dictionary.{name}": value for name, value in self.dictionary.state_dict().items()}
        for index, parameter in enumerate(self.dictionary.parameters()):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{index}.{name}"] = value
        tensors.update({f"sum.{name}": value for name, value in self._sums.items()})
        tensors["last_fired"] = self._last_fired
        return tensors, {"step": self.step, "history": self.history, "sums": list(self._sums)}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up the state that `state` gave."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}

        self.dictionary.load_state_dict(below("dictionary."))
        for index, parameter in enumerate(self.dictionary.parameters()):
            device = parameter.device
            self._optimizer.state[parameter] = {
                name: value.to(device) if name != "step" or self._fused else value
                for name, value in below(f"adam.{index}.").items()
            }
        sums = below("sum.")  # in the order of before: the columns of the history and the last bits of sums follow it
        self._sums = {name: sums[name].to(self.dictionary.device) for name in values["sums"]}
        self._last_fired = tensors["last_fired"].clone().to(self.dictionary.device)
        self.step = int(values["step"])
        self.history = {name: list(column) for name, column in values["history"].items()}
