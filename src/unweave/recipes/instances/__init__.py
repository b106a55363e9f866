"""Do two trainings of one network learn the same thing?"""

from unweave.recipes.instances.networks import Instances
from unweave.recipes.instances.recipe import DEFAULT, PUBLISHED, instances

__all__ = ["DEFAULT", "PUBLISHED", "Instances", "instances"]
