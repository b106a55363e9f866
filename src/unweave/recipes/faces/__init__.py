"""Features of a vision model that was fine-tuned without labels: are they clearer than its raw coordinates?"""

from unweave.recipes.faces.material import Faces
from unweave.recipes.faces.recipe import DEFAULT, PUBLISHED, faces

__all__ = ["DEFAULT", "PUBLISHED", "Faces", "faces"]
