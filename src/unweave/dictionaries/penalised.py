"""What the kinds share whose sparsity is a penalty."""

from dataclasses import dataclass

from unweave.core.errors import InputError
from unweave.dictionaries.base import Step
from unweave.dictionaries.sae import SAEConfig


@dataclass(frozen=True, kw_only=True)
class PenalisedConfig(SAEConfig):
    """Options of the kinds whose sparsity is a penalty."""

    warm_up_share: float = 0.0
    "share of the run over which the penalty rises linearly from zero to its weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warm_up_share <= 1:
            raise InputError(f"warm_up_share is a share of the run between 0 and 1, got {self.warm_up_share}")

    def warm_up(self, step: Step) -> float:
        """What the penalty's weight is multiplied with at one step of training."""
        return 1.0 if self.warm_up_share == 0 else min(1.0, step.done() / self.warm_up_share)
