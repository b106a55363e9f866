"""Features of a vision model fine-tuned without labels, beside its raw coordinates: measured, shown, ready to rate."""

from unweave.datasets.photos import Photos
from unweave.dictionaries.relu_faces import FacesReLU
from unweave.dictionaries.topk import TopK
from unweave.models.contrastive import Contrastive
from unweave.recipes.base import Run, recipe
from unweave.recipes.faces.attributes import tell_attributes
from unweave.recipes.faces.checks import tell_checks
from unweave.recipes.faces.dictionary import study_embedding
from unweave.recipes.faces.grids import tell_grids
from unweave.recipes.faces.material import Faces, prepare
from unweave.recipes.faces.neighbours import tell_neighbours
from unweave.recipes.faces.published import tell_published
from unweave.recipes.faces.rating import tell_study
from unweave.recipes.faces.tuning import tell_tuning
from unweave.train import Training

# TopK, so that its controls, which follow the same rule, have as many latents in every row as the dictionary has.
DEFAULT = Faces(
    fit=Contrastive(epochs=1, least_steps=150),
    sae=TopK(d_sae=512, k=16, aux=1 / 32),
    training=Training(epochs=50, batch_size=256),
)

# What the notebook computed. Its rows are the embeddings at length 1.
PUBLISHED = Faces(
    data=Photos(size=224),
    fit=Contrastive(form="published", epochs=1, batch_size=128, learning_rate=1e-3, precision="float32"),
    sae=FacesReLU(d_sae=512, l1=0.1, l1_reduction="sum", b_dec="zero", decoder_norm="free", std=1.0, weight_decay=1e-4),
    training=Training(
        epochs=30,
        batch_size=512,
        learning_rate=1e-5,
        betas=(0.9, 0.999),
        schedule="constant",
        shuffle=False,
        scale_inputs=False,
        encoder_precision="float32",
    ),
)


@recipe("faces", default=DEFAULT, published=PUBLISHED)
def faces(config: Faces, run: Run) -> None:
    """What do latents of a fine-tuned image embedding show, and is it clearer than its raw coordinates?"""
    material = prepare(config, run)
    tell_tuning(config, run, material)
    tell_checks(config, run, material)
    atlases = study_embedding(config, run, material)
    tell_grids(config, run, material, atlases)
    tell_attributes(config, run, material, atlases)
    tell_neighbours(config, run, material, atlases)
    tell_published(config, run, material)
    tell_study(config, run, atlases)
