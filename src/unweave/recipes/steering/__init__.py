"""What one latent draws, and what moving it does."""

from unweave.recipes.steering.recipe import DEFAULT, PUBLISHED, SteeringStudy, steering

__all__ = ["DEFAULT", "PUBLISHED", "SteeringStudy", "steering"]
