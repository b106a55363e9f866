"""Stage: rows → a trained dictionary, or many of them."""

from unweave.train.course import Job
from unweave.train.several import train_several
from unweave.train.stage import train
from unweave.train.training import Training

__all__ = ["Job", "Training", "train", "train_several"]
