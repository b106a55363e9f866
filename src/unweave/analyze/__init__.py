"""Stage: a dictionary and activations → an atlas of what each latent stands for."""

from unweave.analyze.atlas import Analysis, Atlas
from unweave.analyze.attribution import attribute
from unweave.analyze.maps import latent_map, load_map, write_map
from unweave.analyze.related import coactive_latents, similar_latents
from unweave.analyze.stage import analyze

__all__ = [
    "Analysis",
    "Atlas",
    "analyze",
    "attribute",
    "coactive_latents",
    "latent_map",
    "load_map",
    "similar_latents",
    "write_map",
]
