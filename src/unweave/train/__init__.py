"""Stage: rows → a trained dictionary."""

from unweave.train.stage import train
from unweave.train.training import Training

__all__ = ["Training", "train"]
