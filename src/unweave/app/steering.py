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
from torch.nn.functional import cosine_similarity, normalize

from unweave.app.network import Source
from unweave.app.opened import OpenAtlas
from unweave.app.pictures import bytes_of, png
from unweave.app.schema import ActiveLatent, ClassAnswer, ContextToken, DoseCurve, Near, Steered, SteerOrder
from unweave.app.views import image_address
from unweave.core.errors import InputError, did_you_mean
from unweave.core.seeds import torch_generator
from unweave.datasets.base import TextDataset, images_of
from unweave.figures.contexts import shown
from unweave.models.adopted import ReadsText
from unweave.models.fitting import Fit
from unweave.models.pixel_decoder import train_decoder
from unweave.recipes.answers import Answers
from unweave.steer.edits import Edit, Edits

_ROWS_AT_ONCE = 65_536
_DOSES = 21
_CONTROLS = 4
_MOST_TOKENS = 12
_TEXT = 80
_FIT = Fit(learning_rate=2e-3, epochs=8, batch_size=64)


def steer_by(opened: OpenAtlas, order: SteerOrder) -> Steered:
    """Move latents of one row and say what changes.

    Raises:
        InputError: there is no such example, class or latent, or the run lacks its model or images.
    """
    source = source_of(opened, order)
    network, edits = opened.network, read_edits(opened, order)
    rows = network.moved(source, edits)
    answers = network.answers(source, [source.rows, rows, *_as_far(source.rows, rows)])
    kind = network.kind(answers)
    changes = _changes(answers, kind)
    drawn = _drawn(opened, [source.rows, rows])
    own = float(source.rows.norm())
    looked_at = _looked_at(source, rows)
    return Steered(
        source=source.name,
        active=active_latents(opened, source.codes),
        answers=class_answers(kind, answers[:2]),
        answer_moved=changes[0],
        answer_control=float(np.mean(changes[1:])),
        moved=float((rows - source.rows).norm()) / (own or 1.0),
        tokens=_tokens(source, edits),
        picture_before=drawn[0],
        picture_after=drawn[1],
        near_before=nearest(opened, source.rows[looked_at]),
        near_after=nearest(opened, rows[looked_at]),
    )


def _as_far(own: Float[Tensor, "m d_in"], moved: Float[Tensor, "m d_in"]) -> list[Float[Tensor, "m d_in"]]:
    """The control: each row moved as far, along a few random directions."""
    generator = torch_generator(0, "random directions")
    lengths = (moved - own).norm(dim=1, keepdim=True)
    drawn = torch.randn(_CONTROLS, own.shape[1], generator=generator).to(own)
    return [own + lengths * direction for direction in normalize(drawn, dim=1)]


def _changes(answers: Float[Tensor, "v outputs"], kind: Answers) -> list[float]:
    """How far each answer is from the first: divergence in nats, or 1 − cosine of vectors."""
    own, others = answers[:1], answers[1:]
    if kind.kind == "vectors":
        found = 1 - cosine_similarity(others, own, dim=1)
    else:
        log, log_own = others.log_softmax(1), own.log_softmax(1)
        found = (log_own.exp() * (log_own - log)).sum(1)
    return [max(0.0, float(one)) for one in found]


def _looked_at(source: Source, rows: Float[Tensor, "m d_in"]) -> slice:
    """The row whose neighbours are shown, where an example has several: the one that moves furthest."""
    if len(rows) == 1:
        return slice(0, 1)
    lengths = (rows - source.rows).norm(dim=1)
    if not bool(lengths.any()):
        lengths = source.codes.amax(1)
    furthest = int(lengths.argmax())
    return slice(furthest, furthest + 1)


def _tokens(source: Source, edits: Edits) -> list[ContextToken]:
    """A text's tokens, with the values of the latent that is moved last; of the strongest one where none is."""
    if not source.tokens:
        return []
    latent = edits[-1].latent if edits else int(source.codes.amax(0).argmax())
    values = source.codes[:, latent].tolist()
    known = dict(zip(source.position.tolist(), values, strict=True)) if len(values) > 1 else {}
    most = max(known, key=lambda place: known[place]) if known else -1
    return [
        ContextToken(text=shown(token), value=known.get(place), strongest=place == most)
        for place, token in enumerate(source.tokens)
    ]


def dose_curve(opened: OpenAtlas, order: SteerOrder, latent: int) -> DoseCurve:
    """The model's answers while one latent is set to each value from 0 to twice its largest.

    Other edits of the order stay as they are.

    Raises:
        InputError: as `steer_by`.
    """
    source, network = source_of(opened, order), opened.network
    others = tuple(edit for edit in read_edits(opened, order) if edit.latent != opened.check(latent))
    doses = np.linspace(0, 2 * reach(opened, latent), _DOSES)
    rows = [network.moved(source, (*others, Edit(latent, "set", (float(dose),)))) for dose in doses]
    answers = network.answers(source, rows)
    kind = network.kind(answers)
    if kind.kind == "vectors":
        own = network.answers(source, [source.rows])
        cosines = cosine_similarity(answers, own, dim=1).tolist()
        return DoseCurve(latent=latent, doses=doses.tolist(), classes=[], probabilities=[], logits=[], cosines=cosines)
    probabilities = answers.softmax(1)
    spread = probabilities.amax(0) - probabilities.amin(0)
    chosen = spread.topk(min(_MOST_TOKENS, len(spread))).indices if kind.kind == "tokens" else torch.arange(len(spread))
    return DoseCurve(
        latent=latent,
        doses=doses.tolist(),
        classes=[shown(name) for name in kind.named(chosen.tolist())],
        probabilities=probabilities[:, chosen].T.tolist(),
        logits=answers[:, chosen].T.tolist(),
    )


def source_of(opened: OpenAtlas, order: SteerOrder) -> Source:
    """What an order steers, opened once.

    Raises:
        InputError: it names nothing, or what is not there.
    """
    if sum(one is not None for one in (order.example, order.of_class, order.text)) != 1:
        raise InputError("name what is steered: an example, of_class for the mean of a class, or a text")
    key = ("source", order.example, order.of_class, order.text)
    return opened.once(key, lambda: _source(opened, order.example, order.of_class, order.text))


def _source(opened: OpenAtlas, example: int | None, of_class: str | None, text: str | None) -> Source:
    if text is not None:
        return opened.network.of_text(text, "your text")
    data = opened.data
    if isinstance(data, TextDataset):
        if example is None:
            raise InputError("texts of a class have no mean; name one text by its number")
        if not 0 <= example < len(data):
            raise InputError(f"there is no text {example}: there are {len(data):,}, counted from 0")
        name = f"text {example}"
        if opened.class_names:
            name += f", {opened.class_names[int(data.labels[example])]}"
        return opened.network.of_text(data.texts[example], name)
    images = images_of(data)
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
    """An example to begin with: the one that a latent fires on most, or the first."""
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
    """The captured rows of different examples with the largest cosine to a row; to the mean of several."""
    wanted = normalize(rows.detach().float().mean(0), dim=0).cpu()
    store = opened.activations
    cosines = torch.cat([normalize(block, dim=1) @ wanted for block in store.blocks(_ROWS_AT_ONCE)])
    value, place = (found.numpy() for found in cosines.topk(min(len(cosines), 8 * most)))
    _, first = np.unique(opened.examples[place], return_index=True)
    chosen = first[np.argsort(first)][:most]
    return near_examples(opened, opened.examples[place[chosen]], value[chosen], store.position.numpy()[place[chosen]])


def near_examples(
    opened: OpenAtlas, examples: np.ndarray, cosines: np.ndarray, positions: np.ndarray | None = None
) -> list[Near]:
    """Captured images or texts and how near they are; positions say where in a text a row lies."""
    texts = opened.data.texts if opened.of_texts and isinstance(opened.data, TextDataset) else None
    places = np.zeros(len(examples), np.int64) if positions is None else positions
    return [
        Near(
            example=e,
            cosine=c,
            label=opened.label_of_example(e),
            image="" if texts is not None else image_address(opened, e),
            text="" if texts is None else _around(opened, texts[e], p),
        )
        for e, c, p in zip(examples.tolist(), cosines.tolist(), places.tolist(), strict=True)
    ]


def _around(opened: OpenAtlas, text: str, position: int) -> str:
    """The tokens before a row's own, which stands in brackets, and those after it."""
    reader: object = opened.network.model
    tokens = [shown(token) for token in reader.tokens([text])[0]] if isinstance(reader, ReadsText) else []
    if position >= len(tokens):
        return text[:_TEXT]
    before, after = (" ".join(part) for part in (tokens[max(0, position - 6) : position], tokens[position + 1 :][:6]))
    return f"{before} [{tokens[position]}] {after}".strip()


def class_answers(kind: Answers, answers: Float[Tensor, "2 classes"]) -> list[ClassAnswer]:
    """The model's answers before and after: class by class, or the tokens that matter most; none of vectors."""
    if kind.kind == "vectors":
        return []
    probabilities = answers.softmax(1)
    index = torch.arange(answers.shape[1])
    if kind.kind == "tokens":
        likely = probabilities.topk(min(_MOST_TOKENS, len(index)), dim=1).indices.flatten().tolist()
        index = torch.tensor(sorted(dict.fromkeys(likely), key=lambda one: -float(probabilities[0, one])))
    columns = (*probabilities[:, index].tolist(), *answers[:, index].tolist())
    return [
        ClassAnswer(name=shown(name), before=before, after=after, logit_before=low, logit_after=high)
        for name, before, after, low, high in zip(kind.named(index.tolist()), *columns, strict=True)
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
