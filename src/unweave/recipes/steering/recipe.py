"""What one latent draws: KL dictionaries of a linear model on digits and their scrambled twins, and a way to pixels."""

import copy
import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from unweave.analyze import analyze
from unweave.capture import capture
from unweave.capture.live import LiveRows
from unweave.core.errors import InputError
from unweave.datasets.base import DatasetConfig, ImageDataset
from unweave.datasets.scrambled import Scrambled
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.topk import TopK
from unweave.models.base import ModelConfig
from unweave.models.classifier import TrainedModel, train_classifier
from unweave.models.fitting import Fit
from unweave.models.one_layer import OneLayer
from unweave.models.pixel_decoder import TrainedDecoder, train_decoder
from unweave.recipes.base import Run, recipe
from unweave.recipes.steering.drawing import tell_geometry, tell_pictures
from unweave.recipes.steering.importance import tell_importance
from unweave.recipes.steering.losses import tell_losses
from unweave.recipes.steering.moves import tell_moves
from unweave.recipes.steering.parts import Encoded, Parts, drawn_images, tell_training
from unweave.store.activations import Activations
from unweave.train import Job, Training, train_several


@dataclass(frozen=True, kw_only=True)
class SteeringStudy:
    """A classifier, dictionaries of one of its layers under several targets, and a decoder of that layer to pixels."""

    data: DatasetConfig = field(default_factory=Scrambled)
    "the images"
    model: ModelConfig = field(default_factory=OneLayer)
    "the network under study"
    fit: Fit
    "how the network is trained"
    at: str = "hidden"
    "the layer: dotted name of the module whose output is taken apart"
    sae: DictionaryConfig
    "the dictionary, with a target mean activity: relu-kl"
    targets: tuple[float, ...] = (0.1, 0.999)
    "target mean activities ρ: one dictionary for each; the first is the one that is steered"
    beside: DictionaryConfig = field(default_factory=lambda: TopK(d_sae=98, k=8))
    "one more dictionary of the same rows, to see what sparse looks like"
    training: Training
    "how they are trained"
    beside_training: Training = field(default_factory=lambda: Training(epochs=5, batch_size=256))
    "how that one more is trained"
    decoder: Fit
    "how the pixel decoder is trained"
    judged_batch: int = 64
    "rows over which the KL part of a validation loss takes its mean activity"
    most: int = 30
    "a class's most important latents that its picture is made of"
    each: int = 3
    "a class's most important latents that the geometries are compared over"
    moved: int = 6
    "latents that are moved, for dose-response curves"
    moved_images: int = 5000
    "held-out images on which latents are moved and taken out of the model, drawn at random"

    def __post_init__(self) -> None:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise InputError(f"targets must be different mean activities, at least one; got {list(self.targets)}")
        for rho in self.targets:
            self.with_target(rho)
        for name in ("judged_batch", "most", "each", "moved", "moved_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    def with_target(self, rho: float) -> ReLUKL:
        """The dictionary with this target.

        Raises:
            InputError: it is of a kind without one, or this is no mean activity.
        """
        if not isinstance(self.sae, ReLUKL):
            kind = getattr(self.sae, "kind", self.sae)
            raise InputError(f"targets are mean activities of relu-kl dictionaries; put {kind} beside them (beside)")
        return dataclasses.replace(self.sae, rho=rho)


# What the notebook computed. Its ε keeps mean activities from 0 and 1, its squared error is a mean over entries.
PUBLISHED = SteeringStudy(
    fit=Fit(epochs=10, batch_size=64),
    sae=ReLUKL(
        d_sae=98,
        kl=1e-4,
        squash=False,
        b_dec="zero",
        init="kaiming",
        decoder_norm="free",
        reconstruction="mean",
    ),
    training=Training(
        epochs=10,
        batch_size=64,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
        schedule="constant",
        scale_inputs=False,
        encoder_precision="float32",
    ),
    decoder=Fit(learning_rate=1e-4, epochs=10, batch_size=64),
)

# The same model; dictionaries in an eighth of the steps and the decoder in half of them, with rates as much higher.
# What the model reads of a picture hangs on its faintest pixels, which a decoder in fewer steps leaves too bright.
DEFAULT = dataclasses.replace(
    PUBLISHED,
    training=dataclasses.replace(PUBLISHED.training, epochs=5, learning_rate=8e-4, batch_size=256),
    decoder=Fit(learning_rate=2e-4, epochs=5, batch_size=64),
)


@recipe("steering", default=DEFAULT, published=PUBLISHED)
def steering(config: SteeringStudy, run: Run) -> None:
    """What does one latent draw, what does moving it do, and what of that needed a dictionary?"""
    train_images, test_images = (config.data.images(split, run.data_dir) for split in ("train", "test"))
    some = drawn_images(test_images, config.moved_images, seed=run.seed)
    model = train_classifier(
        config.model, config.fit, train_images, test_images, seed=run.seed, out=run.place("model"), runtime=run.runtime
    )
    decoder, dictionaries = _train_parts(config, run, model, train_images, test_images)
    rows = capture(model.module, test_images, at=config.at, out=run.place("activations@test"), batch_size=2048)
    # What follows is small, and looks at all of it side by side: on one device.
    for module in (model.module, decoder.module, *dictionaries.values()):
        module.cpu()
    for name, sae in dictionaries.items():  # for whoever looks at the run's latents later
        analyze(sae, rows, images=test_images, seed=run.seed, out=run.place(f"atlas@{name}"))
    parts = Parts(test_images, some, rows, model, config.at, decoder, _encoded(dictionaries, rows))
    tell_training(parts, run)
    tell_losses(parts, run, batch_size=config.judged_batch)
    found = tell_importance(parts, run, most=config.most)[parts.main.name]
    tell_pictures(parts, run, found, most=config.most, each=config.each)
    tell_geometry(parts, run, found, each=config.each)
    tell_moves(parts, run, found, latents=config.moved, most=config.most)


def _train_parts(
    config: SteeringStudy, run: Run, model: TrainedModel, train: ImageDataset, test: ImageDataset
) -> tuple[TrainedDecoder, Mapping[str, Dictionary]]:
    """The pixel decoder and the dictionaries; neither waits for the other."""
    jobs: dict[str, tuple[DictionaryConfig, Training]] = {
        f"{rho:g}": (config.with_target(rho), config.training) for rho in config.targets
    }
    jobs[config.beside.kind] = (config.beside, config.beside_training)
    places = {name: run.place(f"sae@{name}") for name in jobs}
    place = run.place("pixel-decoder")
    drawn_from = copy.deepcopy(model.module)  # its own: hooks of two threads in one module would meet
    with ThreadPoolExecutor(1) as beside:
        drawing = beside.submit(
            train_decoder,
            drawn_from,
            config.at,
            config.decoder,
            train,
            test,
            seed=run.seed,
            out=place,
            runtime=run.runtime,
            label=None,
        )
        rows = LiveRows(model.module, train, at=config.at)
        made = train_several(
            rows,
            [
                Job(dictionary=sae, training=training, seed=run.seed, out=places[name])
                for name, (sae, training) in jobs.items()
            ],
            runtime=run.runtime,
        )
        decoder = drawing.result()
    for outcome in made:
        if not isinstance(outcome, Dictionary):
            raise outcome
    return decoder, dict(zip(jobs, (one for one in made if isinstance(one, Dictionary)), strict=True))


@torch.no_grad()
def _encoded(dictionaries: Mapping[str, Dictionary], rows: Activations) -> dict[str, Encoded]:
    """Each dictionary's codes of the held-out rows, and what they miss."""
    found = {}
    for name, sae in dictionaries.items():
        parts = []
        for block in rows.blocks(8192):
            own = block.to(sae.device)
            codes = sae.encode(own)
            parts.append((codes.cpu(), block - sae.reconstruct(codes, own).cpu()))
        codes, residual = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        found[name] = Encoded(name, sae, codes, residual)
    return found
