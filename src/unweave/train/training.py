"""How a dictionary is trained."""

from dataclasses import dataclass
from typing import Literal

from unweave.core.errors import InputError
from unweave.dictionaries.kernels.base import Precision


@dataclass(frozen=True, kw_only=True)
class Training:
    """Adam on batches of rows."""

    epochs: int = 20
    "passes over the rows"
    steps: int | None = None
    "stop after so many steps; overrides epochs"
    batch_size: int = 1024
    "rows a step"
    learning_rate: float = 2e-3
    "Adam's step size, at its highest; for rows scaled as scale_inputs does"
    betas: tuple[float, float] = (0.95, 0.998)
    "Adam's decay rates"
    schedule: Literal["constant", "step", "warmup-decay"] = "warmup-decay"
    "learning rate over the run: constant; times step_factor every step_epochs; linear up, flat, linear down to zero"
    warmup_share: float = 0.02
    "share of the run over which the rate rises from zero (warmup-decay)"
    decay_share: float = 0.2
    "share of the run, at its end, over which the rate falls to zero (warmup-decay)"
    step_epochs: int = 10
    "epochs between two falls of the rate (step)"
    step_factor: float = 0.99
    "what the rate is multiplied with at each fall (step)"
    clip_norm: float | None = None
    "largest norm of the whole gradient; unclipped by default"
    shuffle: bool = True
    "see the rows in a new seeded order each epoch; off: as they are stored"
    scale_inputs: bool = True
    "train on rows scaled to variance 1 a dimension; the scale is folded back into the weights at the end"
    encoder_precision: Precision = "bfloat16"
    "of the encoder's product in the sparse step, its one dense product; bfloat16 is two to eight times as fast where \
the processor has it, and costs no quality that was measured; but for float32, a GPU's other products take TF32"
    dead_window: float = 0.005
    "a latent counts as dead after firing on no row for this share of the run, and"
    dead_firings: int = 300
    "while the average latent fired so often: in a short or a sparse run a share is too little to tell dead from rare"

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "batch_size": self.batch_size, "step_epochs": self.step_epochs}
        for name, value in {**counts, "steps": 1 if self.steps is None else self.steps}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        rates = {"learning_rate": self.learning_rate, "step_factor": self.step_factor, "clip_norm": self.clip_norm}
        for name, rate in rates.items():
            if rate is not None and not 0 < rate < float("inf"):
                raise InputError(f"{name} must be above 0, got {rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are decay rates from 0 to below 1, got {self.betas}")
        for name in ("warmup_share", "decay_share", "dead_window"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name} is a share of the run between 0 and 1, got {share}")
        if self.dead_firings < 0:
            raise InputError(f"dead_firings must be at least 0, got {self.dead_firings}")
        if self.warmup_share + self.decay_share > 1:
            raise InputError("warmup_share and decay_share together exceed the run")

    def rate(self, step: int, total: int | None, steps_per_epoch: int | None) -> float:
        """The learning rate at one step; where the end (or an epoch's) is not known, it does not change."""
        if self.schedule == "step":
            falls = 0 if steps_per_epoch is None else step // steps_per_epoch // self.step_epochs
            return self.learning_rate * self.step_factor**falls
        if self.schedule == "constant" or total is None:
            return self.learning_rate
        up = min(1.0, (step + 1) / max(1.0, self.warmup_share * total))
        down = min(1.0, (total - step) / max(1.0, self.decay_share * total))
        return self.learning_rate * min(up, down)
