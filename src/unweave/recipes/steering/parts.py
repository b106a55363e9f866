"""What every part of the steering experiment works on, and how its networks were trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.datasets.base import ImageDataset, MemoryImages
from unweave.datasets.scrambled import SCRAMBLED
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.figures.curves import dictionary_curves, model_curves
from unweave.models.classifier import TrainedModel
from unweave.models.pixel_decoder import TrainedDecoder, pixel_errors
from unweave.recipes.base import Run
from unweave.store.activations import Activations


@dataclass(frozen=True, eq=False)
class Encoded:
    """A dictionary on the held-out rows.

    Attributes:
        name: what the report calls it: the target activity, or the kind.
        sae: the dictionary.
        codes: of every row, dense: this experiment's dictionaries are narrow.
        residual: what they miss.
    """

    name: str
    sae: Dictionary
    codes: Float[Tensor, "n d_sae"]
    residual: Float[Tensor, "n d_in"]

    @property
    def kl(self) -> ReLUKL | None:
        """Its configuration, where its loss has a KL part."""
        return self.sae.config if isinstance(self.sae.config, ReLUKL) else None


@dataclass(frozen=True, eq=False)
class Parts:
    """The trained networks and what they make of the held-out images.

    Attributes:
        test: the held-out images.
        some: those of them on which latents are moved and taken out.
        rows: their activations.
        model: the network under study.
        at: its hook point.
        decoder: from activations to pixels.
        dictionaries: by name; the first is the one that is steered.
    """

    test: ImageDataset
    some: ImageDataset
    rows: Activations
    model: TrainedModel
    at: str
    decoder: TrainedDecoder
    dictionaries: Mapping[str, Encoded]

    @cached_property
    def x(self) -> Float[Tensor, "n d_in"]:
        """The activations in memory."""
        return torch.cat(list(self.rows.blocks(65_536)))

    @property
    def main(self) -> Encoded:
        """The dictionary that is steered and looked at."""
        return next(iter(self.dictionaries.values()))

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return self.test.class_names

    @property
    def shown(self) -> int:
        """How many classes show something; scrambled images, which come last, do not."""
        return len(self.names) - (self.names[-1] == SCRAMBLED)

    @property
    def label(self) -> Int64[Tensor, " n"]:
        """Class of each held-out image."""
        return self.test.labels

    @cached_property
    def mean_images(self) -> Float[Tensor, "classes c h w"]:
        """The mean held-out image of each class, in [0, 1]."""
        sums = torch.zeros(len(self.names), *self.test.shape)
        for batch in self.test.batches(4096):
            sums.index_add_(0, batch.labels, batch.images)
        return sums / torch.bincount(self.label, minlength=len(self.names))[:, None, None, None]

    def class_means(self, values: Float[Tensor, "n w"]) -> Float[Tensor, "classes w"]:
        """Means of rows over each class."""
        sums = torch.zeros(len(self.names), values.shape[1], dtype=values.dtype).index_add_(0, self.label, values)
        return sums / torch.bincount(self.label, minlength=len(self.names))[:, None]

    @torch.no_grad()
    def predictions(self, images: ImageDataset) -> Int64[Tensor, " n"]:
        """What the model takes each image for."""
        device = next(self.model.module.parameters()).device
        return torch.cat([self.model.module(b.images.to(device)).argmax(1).cpu() for b in images.batches(4096)])

    @torch.no_grad()
    def draw(self, rows: Float[Tensor, "k d_in"]) -> Float[np.ndarray, "k c h w"]:
        """Rows through the pixel decoder."""
        return np.asarray(self.decoder.module(rows.to(self.decoder.module.linear.weight.device)).cpu())


def drawn_images(images: ImageDataset, most: int, *, seed: int) -> MemoryImages:
    """Up to `most` images, drawn at random and kept in memory, in their order.

    Raises:
        InputError: a class has no image among them: what is said class by class would have nothing to stand on.
    """
    index = torch.randperm(len(images), generator=torch_generator(seed, "moved images"))[:most].sort().values
    missing = [name for c, name in enumerate(images.class_names) if not bool((images.labels[index] == c).any())]
    if missing:
        raise InputError(
            f"{len(index)} held-out images hold none of class {', '.join(missing)}, and every class needs one: use "
            "more images (moved_images, and all that the data set has)"
        )
    return MemoryImages(images.pixels(index), images.labels[index], images.class_names)


def tell_training(parts: Parts, run: Run) -> None:
    """Show how the networks were trained, and how well they do on each kind of image."""
    errors = pixel_errors(parts.decoder.module, parts.model.module, parts.at, parts.test)
    means = parts.mean_images.to(torch.float32)
    alone = torch.cat([(b.images - means[b.labels]).square().flatten(1).mean(1) for b in parts.test.batches(4096)])
    right = (parts.predictions(parts.test) == parts.label).double()
    run.record({"model/test_accuracy": parts.model.test_accuracy, "pixels/test_mse": parts.decoder.test_mse})
    run.record({"pixels/test_mse": float(alone.mean())}, condition="class_mean_image")
    run.section(
        "The model, a way back to pixels, and the dictionary",
        f"A classifier, and a linear decoder with a sigmoid from its layer {parts.at} to the image. The control is the "
        "mean image of the right class, which no activation is needed for.",
    )
    table = []
    for c, name in enumerate(parts.names):
        chosen = parts.label == c
        cells = [f"{100 * right[chosen].mean():.2f} %", f"{errors[chosen].mean():.4f}", f"{alone[chosen].mean():.4f}"]
        table.append([name, *cells])
        run.record({f"pixels/test_mse/{name}": float(errors[chosen].mean())})
    run.table(
        ["class", "accuracy", "pixel decoder: mean squared error", "mean image of the class"],
        [["all", f"{100 * right.mean():.2f} %", f"{errors.mean():.4f}", f"{alone.mean():.4f}"], *table],
        note=f"On {len(errors):,} held-out images.",
        main=2,
    )
    run.show("model_curves", model_curves(parts.model.curves), "The model while it was trained.")
    caption = f"The dictionary {parts.main.name} while it was trained; numbers are means over training batches."
    run.show("dictionary_curves", dictionary_curves(parts.main.sae.history), caption)
