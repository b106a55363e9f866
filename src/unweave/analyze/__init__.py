"""Stage: a dictionary and activations → an atlas of what each latent stands for."""

from unweave.analyze.atlas import Analysis, Atlas
from unweave.analyze.stage import analyze

__all__ = ["Analysis", "Atlas", "analyze"]
