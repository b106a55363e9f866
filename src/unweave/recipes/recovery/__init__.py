"""Every kind of dictionary on rows of which the truth is known."""

from unweave.recipes.recovery.recipe import QUICK, Recovery, recovery

__all__ = ["QUICK", "Recovery", "recovery"]
