"""The main job on any network and any data: one layer taken apart."""

from unweave.recipes.layer.recipe import DEFAULT, layer
from unweave.recipes.layer.study import LayerStudy

__all__ = ["DEFAULT", "LayerStudy", "layer"]
