"""Can a dictionary recover two known sources?"""

from unweave.recipes.mixtures.recipe import PUBLISHED, Mixtures, findings, mixtures

__all__ = ["PUBLISHED", "Mixtures", "findings", "mixtures"]
