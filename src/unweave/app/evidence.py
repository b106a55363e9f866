"""What a latent does and where it comes from: asked of the model when its page is opened."""

from dataclasses import dataclass

import numpy as np
import torch

from unweave.analyze.attribution import attribute
from unweave.app.opened import OpenAtlas
from unweave.app.pictures import heat, image_pixels, png
from unweave.app.schema import Attributed
from unweave.app.steering import data_address
from unweave.core.errors import InputError
from unweave.datasets.base import MemoryImages
from unweave.steer import ablation_effects

_MOST_EXAMPLES = 1000
_SIDE = 168


@dataclass(frozen=True)
class Effect:
    """Change of each class's logit when a latent is taken out, and of the loss; `control` is a random direction's."""

    names: list[str]
    change: list[float]
    loss: float
    control: float
    said: str


def effect(opened: OpenAtlas, latent: int) -> Effect:
    """Take a latent's part out of the layer on the examples that activate it.

    Raises:
        InputError: the run lacks its model or images, or the model's answer is no choice between classes.
    """
    return opened.once(("effect", latent), lambda: _effect(opened, opened.check(latent)))


def _effect(opened: OpenAtlas, latent: int) -> Effect:
    network, images = opened.network, opened.images
    fires = np.unique(opened.examples[opened.atlas.entries.of(latent)[0]])
    if not len(fires):
        raise InputError("It fires on no row, so nothing can be taken out.")
    if len(fires) > _MOST_EXAMPLES:  # evenly spread over the store
        fires = fires[np.linspace(0, len(fires) - 1, _MOST_EXAMPLES).astype(int)]
    index = torch.from_numpy(fires.astype(np.int64))
    some = MemoryImages(images.pixels(index), images.labels[index], images.class_names)
    source = network.source(some.pixels(torch.tensor([0])).float() / 255, "")
    if not network.classifies(network.answers(source, [source.rows])):
        raise InputError("The model's answer is no choice between the classes, so there are no logits to compare.")
    with network.lock:
        found = ablation_effects(
            network.model, network.dictionary, some, at=network.at, latents=[latent], rows=network.meaning,
            side=network.side, controls=4,
        )  # fmt: skip
    share = found.examples / found.examples.sum()
    change = np.einsum("c,cl->l", share, found.logits[0])
    rise, control = float(found.total_loss[0]), float(found.total_control[0])
    most = int(np.abs(change).argmax())
    said = (
        f"On {len(fires):,} images that activate it, the cross-entropy rises by {rise:.4g} nats without it "
        f"({control:.4g} along random directions of the same length); the logit of {found.class_names[most]} changes "
        f"most, by {change[most]:+.3g}."
    )
    return Effect(found.class_names, change.tolist(), rise, control, said)


def attribution(opened: OpenAtlas, latent: int, example: int, method: str) -> Attributed:
    """Where in an image a latent's value comes from.

    Raises:
        InputError: there is no such image, latent or method, or the run lacks its model or images.
    """
    network = opened.network
    pixels = image_pixels(opened, example)
    image = torch.from_numpy(pixels).float() / 255
    with network.lock:
        found = attribute(
            network.model, network.dictionary, image, opened.check(latent), at=network.at, method=method,
            rows=network.meaning, side=network.side,
        )  # fmt: skip
    return Attributed(
        latent=latent,
        method=method,
        value=found.value,
        map=data_address(png(heat(found.map), side=_SIDE)),
        control=None if found.control is None else data_address(png(heat(found.control), side=_SIDE)),
        said=found.said,
    )


@torch.no_grad()
def decoder_picture(opened: OpenAtlas, latent: int) -> str | None:
    """What one unit of a latent adds to the mean row, drawn by the pixel decoder; None where the run has none."""
    decoder = opened.decoder
    if decoder is None:
        return None
    mean = opened.activations.moments().mean.float().unsqueeze(0)
    direction = opened.directions[latent].float().unsqueeze(0) * max(1e-6, float(opened.columns["max"][latent]))
    if mean.shape[1] != decoder.d_in:
        return None
    change = (decoder(mean + direction) - decoder(mean)).mean(1)[0].numpy()
    return data_address(png(heat(change), side=_SIDE))
