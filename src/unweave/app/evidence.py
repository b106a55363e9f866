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
from unweave.datasets.base import ImageDataset, MemoryImages, MemoryTexts, TextDataset, images_of
from unweave.figures.contexts import shown
from unweave.recipes.answers import Answers
from unweave.steer import ablation_effects, moved_answers

_MOST_EXAMPLES = 1000
_MOST_WITH_PLACES = 100  # where each has many rows
_SIDE = 168


@dataclass(frozen=True)
class Effect:
    """What the answers lose when a latent is taken out, beside random directions.

    Attributes:
        names: classes or tokens; none where answers are vectors.
        change: of each one's logit, or of its probability.
        loss: rise of the cross-entropy, or how far answers move: in nats, or 1 − cosine of vectors.
        control: the same along random directions.
        said: in words.
        probabilities: whether `change` is one of probabilities.
    """

    names: list[str]
    change: list[float]
    loss: float
    control: float
    said: str
    probabilities: bool = False


def effect(opened: OpenAtlas, latent: int) -> Effect:
    """Take a latent's part out of the layer on the examples that activate it.

    Raises:
        InputError: the run lacks its model or its examples.
    """
    return opened.once(("effect", latent), lambda: _effect(opened, opened.check(latent)))


def _effect(opened: OpenAtlas, latent: int) -> Effect:
    network, data = opened.network, opened.data
    fires = np.unique(opened.examples[opened.atlas.entries.of(latent)[0]])
    if not len(fires):
        raise InputError("It fires on no row, so nothing can be taken out.")
    per_example = max(1, round(opened.activations.n / max(1, len(np.unique(opened.examples)))))
    most = _MOST_EXAMPLES if per_example == 1 else _MOST_WITH_PLACES
    if len(fires) > most:  # evenly spread over the store
        fires = fires[np.linspace(0, len(fires) - 1, most).astype(int)]
    index = torch.from_numpy(fires.astype(np.int64))
    some: ImageDataset | TextDataset
    if isinstance(data, TextDataset):
        some = MemoryTexts([data.texts[one] for one in fires.tolist()], data.labels[index], data.class_names)
        source = network.of_text(some.texts[0], "")
    else:
        images = images_of(data)
        some = MemoryImages(images.pixels(index), images.labels[index], images.class_names)
        source = network.source(some.pixels(torch.tensor([0])).float() / 255, "")
    kind = network.kind(network.answers(source, [source.rows]))
    if kind.class_names is None or kind.class_names != list(data.class_names):
        return _moved(opened, some, kind, latent)
    with network.lock:
        found = ablation_effects(
            network.model, network.dictionary, some, at=network.at, latents=[latent], rows=network.meaning,
            side=network.side, layout=network.layout, controls=4, batch_size=512 if per_example == 1 else 64,
        )  # fmt: skip
    share = found.examples / found.examples.sum()
    change = np.einsum("c,cl->l", share, found.logits[0])
    rise, control = float(found.total_loss[0]), float(found.total_control[0])
    most = int(np.abs(change).argmax())
    said = (
        f"On {len(fires):,} examples that activate it, the cross-entropy rises by {rise:.4g} nats without it "
        f"({control:.4g} along random directions of the same length); the logit of {found.class_names[most]} changes "
        f"most, by {change[most]:+.3g}."
    )
    return Effect(found.class_names, change.tolist(), rise, control, said)


def _moved(opened: OpenAtlas, some: ImageDataset | TextDataset, kind: Answers, latent: int) -> Effect:
    """Of answers that are not right or wrong: how far they move without the latent."""
    network = opened.network
    with network.lock:
        found = moved_answers(
            network.model, network.dictionary, some, latents=[latent], doses=(0.0,), unit="value", at=network.at,
            names=kind.names, rows=network.meaning, side=network.side, layout=network.layout, controls=4, shown=0,
            most=12,
        )  # fmt: skip
    (one,) = found.strongest()
    unit = "nats" if found.logits else "1 - cosine"
    control = float(found.curve(latent, "control_change")[0])
    said = (
        f"Without it the answers to {found.n:,} examples that activate it move by {one.change:.4g} ({unit}), along "
        f"random directions of the same length by {control:.4g}."
    )
    followed = found.followed_of(latent)
    if followed:
        said += (
            f" The probability of {shown(one.answer)} changes most, by {100 * one.probability:+.3g} points of % (along "
            f"random directions that of any by {100 * one.by_chance:.3g} at most)."
        )
    names, change = [shown(each.name) for each in followed], [100 * float(each.change[0]) for each in followed]
    return Effect(names, change, one.change, control, said, probabilities=True)


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
    if mean.shape[1] != decoder.d_in:
        return None
    direction = opened.directions[latent].float() * opened.dictionary.scales(mean.to(opened.directions)).cpu()
    strongest = max(1e-6, float(opened.columns["max"][latent]))
    change = (decoder(mean + strongest * direction) - decoder(mean)).mean(1)[0].numpy()
    return data_address(png(heat(change), side=_SIDE))
