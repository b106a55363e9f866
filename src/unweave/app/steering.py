"""Steering by hand: what moving latents does to a picture and to the model's answer."""

import base64
import copy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from unweave.app.network import Source
from unweave.app.opened import OpenAtlas
from unweave.app.pictures import bytes_of, png
from unweave.app.schema import ActiveLatent, ClassAnswer, DoseCurve, Near, Steered, SteerOrder
from unweave.app.views import image_address
from unweave.core.errors import InputError, did_you_mean
from unweave.models.fitting import Fit
from unweave.models.pixel_decoder import train_decoder
from unweave.steer.edits import Edit, Edits

_ROWS_AT_ONCE = 65_536
_DOSES = 21
_FIT = Fit(learning_rate=2e-3, epochs=8, batch_size=64)


def steer_by(opened: OpenAtlas, order: SteerOrder) -> Steered:
    """Move latents of one row and say what changes.

    Raises:
        InputError: there is no such example, class or latent, or the run lacks its model or images.
    """
    source = source_of(opened, order)
    network = opened.network
    rows = network.moved(source, read_edits(opened, order))
    answers = network.answers(source, [source.rows, rows])
    drawn = _drawn(opened, [source.rows, rows])
    own = float(source.rows.norm())
    return Steered(
        source=source.name,
        active=active_latents(opened, source.codes),
        answers=class_answers(opened, answers) if network.classifies(answers) else [],
        moved=float((rows - source.rows).norm()) / (own or 1.0),
        picture_before=drawn[0],
        picture_after=drawn[1],
        near_before=nearest(opened, source.rows),
        near_after=nearest(opened, rows),
    )


def dose_curve(opened: OpenAtlas, order: SteerOrder, latent: int) -> DoseCurve:
    """The model's answers while one latent is set to each value from 0 to twice its largest.

    Other edits of the order stay as they are.

    Raises:
        InputError: as `steer_by`; or the model's answer is no choice between classes.
    """
    source, network = source_of(opened, order), opened.network
    others = tuple(edit for edit in read_edits(opened, order) if edit.latent != opened.check(latent))
    doses = np.linspace(0, 2 * reach(opened, latent), _DOSES)
    rows = [network.moved(source, (*others, Edit(latent, "set", (float(dose),)))) for dose in doses]
    answers = network.answers(source, rows)
    if not network.classifies(answers):
        raise InputError("The model's answer is no choice between the classes, so there is no curve of probabilities.")
    return DoseCurve(
        latent=latent,
        doses=doses.tolist(),
        classes=opened.class_names,
        probabilities=answers.softmax(1).T.tolist(),
        logits=answers.T.tolist(),
    )


def source_of(opened: OpenAtlas, order: SteerOrder) -> Source:
    """What an order steers, opened once.

    Raises:
        InputError: it names nothing, or what is not there.
    """
    if (order.example is None) == (order.of_class is None):
        raise InputError("name what is steered: an example, or of_class for the mean of a class")
    key = ("source", order.example, order.of_class)
    return opened.once(key, lambda: _source(opened, order.example, order.of_class))


def _source(opened: OpenAtlas, example: int | None, of_class: str | None) -> Source:
    images = opened.images
    if example is not None:
        if not 0 <= example < len(images):
            raise InputError(f"there is no image {example}: there are {len(images):,}, counted from 0")
        index, name = torch.tensor([example]), f"image {example}"
        if opened.class_names:
            name += f", {opened.class_names[int(images.labels[example])]}"
    else:
        if of_class not in opened.class_names:
            raise InputError(f"there is no class {of_class!r}: {did_you_mean(str(of_class), opened.class_names)}")
        index = (images.labels == opened.class_names.index(of_class)).nonzero().flatten()[:256]
        name = f"mean of {len(index)} images of {of_class}"
        if not len(index):
            raise InputError(f"there is no image of the class {of_class}")
    return opened.network.source(images.pixels(index).float() / 255, name)


def start_of(opened: OpenAtlas, latent: int) -> int:
    """An image to begin with: the one that a latent fires on most, or the first."""
    if latent < 0 or not opened.columns["count"][opened.check(latent)]:
        return 0
    return int(opened.atlas.examples_of(latent, "value")["example"][0].as_py())


def reach(opened: OpenAtlas, latent: int) -> float:
    """A latent's largest value; where it never fires, the median of the largest values of those that do."""
    largest = opened.columns["max"]
    if largest[latent] > 0:
        return float(largest[latent])
    return float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0


def read_edits(opened: OpenAtlas, order: SteerOrder) -> Edits:
    """An order's edits; of several of one latent the last holds.

    Raises:
        InputError: there is no such latent.
    """
    found = {}
    for one in order.edits:
        values = () if one.op == "ablate" else (one.value,)
        found[one.latent] = Edit(opened.check(one.latent), one.op, values)
    return tuple(found.values())


def active_latents(opened: OpenAtlas, codes: Float[Tensor, "m d_sae"], most: int = 24) -> list[ActiveLatent]:
    """The strongest latents of an example; where it has several rows, by their strongest row."""
    strongest = codes.detach().amax(0)
    value, latent = strongest.topk(min(most, len(strongest)))
    notes = opened.run.notes.all(opened.role)
    return [
        ActiveLatent(latent=j, name=notes[j].name if j in notes else "", value=v)
        for j, v in zip(latent.tolist(), value.tolist(), strict=True)
        if v > 0
    ]


def nearest(opened: OpenAtlas, rows: Float[Tensor, "m d_in"], most: int = 8) -> list[Near]:
    """The captured rows of other examples with the largest cosine to a row; to the mean of several."""
    wanted = normalize(rows.detach().float().mean(0), dim=0).cpu()
    store = opened.activations
    cosines = torch.cat([normalize(block, dim=1) @ wanted for block in store.blocks(_ROWS_AT_ONCE)])
    value, place = (found.numpy() for found in cosines.topk(min(len(cosines), 8 * most)))
    _, first = np.unique(opened.examples[place], return_index=True)
    chosen = first[np.argsort(first)][:most]
    return near_examples(opened, opened.examples[place[chosen]], value[chosen])


def near_examples(opened: OpenAtlas, examples: np.ndarray, cosines: np.ndarray) -> list[Near]:
    """Captured images and how near they are."""
    return [
        Near(example=e, cosine=c, label=opened.label_of_example(e), image=image_address(opened, e))
        for e, c in zip(examples.tolist(), cosines.tolist(), strict=True)
    ]


def class_answers(opened: OpenAtlas, answers: Float[Tensor, "2 classes"]) -> list[ClassAnswer]:
    """The model's answers before and after, class by class."""
    columns = (*answers.softmax(1).tolist(), *answers.tolist())
    return [
        ClassAnswer(name=name, before=before, after=after, logit_before=low, logit_after=high)
        for name, before, after, low, high in zip(opened.class_names, *columns, strict=True)
    ]


@torch.no_grad()
def _drawn(opened: OpenAtlas, variants: Sequence[Float[Tensor, "m d_in"]]) -> list[str | None]:
    """Rows as pictures, where one row is an example and the run has a pixel decoder."""
    decoder = opened.decoder
    if decoder is None or any(len(rows) > 1 for rows in variants):
        return [None for _ in variants]
    pictures = decoder(torch.cat(list(variants)).float()).numpy()
    return [data_address(png(bytes_of(picture), side=196)) for picture in pictures]


def data_address(written: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(written).decode()}"


def needs_decoder(opened: OpenAtlas) -> bool:
    """Whether the layer could be drawn, and only lacks a pixel decoder."""
    config = opened.activations.manifest.config
    one_each = opened.activations.n == opened.activations.manifest.details.get("examples", opened.activations.n)
    return opened.decoder is None and one_each and config["rows"] == "flatten" and config["side"] == "output"


def seconds_to_draw(opened: OpenAtlas) -> float:
    """About how long `learn_to_draw` will take: the model's own passes over its training images.

    Raises:
        InputError: the run lacks its model or images.
    """
    images = opened.training_images
    few = images.pixels(torch.arange(min(_FIT.batch_size, len(images)))).float() / 255
    opened.network.source(few[:1], "")  # the first pass makes ready what later ones find
    started = time.monotonic()
    with opened.network.lock, torch.no_grad():
        opened.network.model(few.to(next(iter(opened.network.model.parameters())).device))
    return (time.monotonic() - started) * _FIT.epochs * len(images) / len(few)


def decoder_folder(opened: OpenAtlas) -> Path:
    """Where the app keeps a pixel decoder that it trained."""
    name = f"pixel-decoder@{opened.atlas.hook_name or 'model'}"
    return opened.run.entry.folder / "artifacts" / name


def learn_to_draw(opened: OpenAtlas) -> None:
    """Train a pixel decoder of the hook point on the captured images, and keep it in the run.

    Raises:
        InputError: the run lacks its model or images, or the layer has no one row an image.
    """
    opened.once("pixel decoder", lambda: _learn_to_draw(opened))


def _learn_to_draw(opened: OpenAtlas) -> None:
    network = opened.network
    model = copy.deepcopy(network.model)  # of its own, so that others can be asked meanwhile
    train, out = opened.training_images, decoder_folder(opened)
    train_decoder(model, network.at, _FIT, train, opened.images, seed=0, out=out, label=None)
