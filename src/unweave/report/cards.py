"""Latents as cards of the page: a sheet of images, and shapes for two small charts."""

import base64
import io
import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unweave.analyze.atlas import Atlas
from unweave.core.seeds import numpy_generator
from unweave.figures.contexts import Context, TopToken, shown
from unweave.figures.latents import LatentCard, contact_sheet
from unweave.figures.places import place_sheet, scale_strip

_COLUMNS = 8
_PLACED_COLUMNS, _PLACED_SIDE = 2, 112
_WEBP_FROM = 1 << 16
_TOKENS = 6


@dataclass(frozen=True)
class Bar:
    """A bar of a small chart, as shares of its height; `mark` is a line across it, `name` stands below it."""

    height: float
    mark: float | None
    title: str
    name: str = ""


@dataclass(frozen=True)
class Token:
    """A token of a context: its text, how strong the ground below it is (0 to 1), and what is said of it."""

    text: str
    ground: float
    title: str
    strongest: bool


@dataclass(frozen=True)
class Line:
    """A context as the page shows it, and the value at its strongest token."""

    tokens: list[Token]
    value: str
    before: bool
    after: bool


@dataclass(frozen=True)
class Card:
    """A latent as the page shows it."""

    latent: int
    summary: str
    sheet: str | None
    histogram: list[Bar]
    classes: list[Bar]
    scale: str = ""
    largest: str = ""
    contexts: list[Line] = field(default_factory=list)
    tokens: list[TopToken] = field(default_factory=list)


@dataclass(frozen=True)
class Gallery:
    """Latents under a heading; `name` is that of its figure's files."""

    name: str
    title: str
    text: str
    latents: list[LatentCard]

    @property
    def placed(self) -> bool:
        """Whether cards show places or texts, which take more room."""
        return any(one.places or one.contexts for one in self.latents)

    @property
    def cards(self) -> list[Card]:
        """The latents as the page shows them."""
        return [card(content) for content in self.latents]


def galleries(atlases: dict[str, Atlas], *, cards: int = 12, seed: int = 0) -> list[Gallery]:
    """The most informative latents, random live ones, and the most informative of random directions beside them."""
    if not atlases:
        return []
    main = next(iter(atlases.values()))
    live = np.flatnonzero(np.isin(main.latents["status"].to_pylist(), ["live", "dense"]))
    chosen = numpy_generator(seed, "gallery").permutation(live)[:cards]
    best = _most_informative(main, cards)
    shown = [
        Gallery("latents", "The most informative latents", _best_text(main), [main.card(j) for j in best]),
        Gallery(
            "latents_at_random",
            "Random live latents",
            "Drawn evenly from the live ones: what a latent is like that nobody picked.",
            [main.card(int(j)) for j in chosen],
        ),
    ]
    if "random" in atlases:
        control = atlases["random"]
        best = _most_informative(control, cards // 2)
        shown.append(
            Gallery(
                "random_directions",
                "Control: the most informative random directions",
                "Never trained. If these look as meaningful as the latents above, meaning came from selection.",
                [control.card(j) for j in best],
            )
        )
    return [gallery for gallery in shown if gallery.latents]


def _best_text(atlas: Atlas) -> str:
    if atlas.class_names is None:
        return "No labels were captured, so these are the latents with the largest activations."
    return "By the information that firing gives about the class; one latent of each class first."


def _most_informative(atlas: Atlas, most: int) -> list[int]:
    """Live latents by falling information, the best of each class before the second of any."""
    live = np.isin(atlas.latents["status"].to_pylist(), ["live", "dense"])
    if atlas.class_names is None:
        by_value = np.argsort(-atlas.column("max"), kind="stable")
        return [int(j) for j in by_value if live[j]][:most]
    top_class = atlas.column("top_class")
    order = [int(j) for j in np.argsort(-atlas.column("mutual_information"), kind="stable") if live[j]]
    place: dict[int, int] = {}
    seen: dict[int, int] = {}
    for j in order:
        place[j] = seen.get(int(top_class[j]), 0)
        seen[int(top_class[j])] = place[j] + 1
    return sorted(order, key=lambda j: place[j])[:most]


def card(content: LatentCard) -> Card:
    """A latent as the page shows it."""
    images, sheet = content.images, None
    if content.places:
        sheet = picture_uri(place_sheet(content.places, content.largest, columns=_PLACED_COLUMNS, side=_PLACED_SIDE))
    elif images is not None and len(images):
        sheet = png_uri(contact_sheet(images, _COLUMNS))
    return Card(
        content.latent,
        content.summary,
        sheet,
        _histogram_bars(content),
        _class_bars(content),
        scale=scale_uri() if content.places else "",
        largest=f"{content.largest:.3g}",
        contexts=[line(one, content.largest) for one in content.contexts],
        tokens=list(content.tokens)[:_TOKENS],
    )


def scale_uri() -> str:
    """The colours of heat maps from 0 to the largest value, as a picture."""
    strip = scale_strip(128, 8)
    return png_uri(np.concatenate([strip, np.full((*strip.shape[:2], 1), 255, np.uint8)], -1))


def line(context: Context, largest: float) -> Line:
    """A context as the page shows it: the stronger a token, the warmer its ground."""
    pairs = zip(context.tokens, context.values.tolist(), strict=True)
    return Line(
        [
            Token(
                shown(text),
                min(max(value, 0.0) / (largest or 1.0), 1.0) if value > 0 else 0.0,
                f"{shown(text)}: {value:.3g}" if not math.isnan(value) else shown(text),
                place == context.strongest,
            )
            for place, (text, value) in enumerate(pairs)
        ],
        f"{context.value:.3g}",
        context.before,
        context.after,
    )


def _histogram_bars(content: LatentCard) -> list[Bar]:
    highest = max(int(content.histogram.max()), 1)
    step = content.largest / len(content.histogram)
    return [
        Bar(count / highest, None, f"{count} rows between {i * step:.3g} and {(i + 1) * step:.3g}")
        for i, count in enumerate(content.histogram.tolist())
    ]


def _class_bars(content: LatentCard) -> list[Bar]:
    shares = content.class_shares
    if shares is None or content.class_names is None:
        return []
    share, prior = shares
    highest = max(float(share.max()), float(prior.max()))
    return [
        Bar(s / highest, p / highest, f"{name}: {100 * s:.1f} % of firing examples, {100 * p:.1f} % of all", name)
        for name, s, p in zip(content.class_names, share.tolist(), prior.tolist(), strict=True)
    ]


def png_uri(pixels: UInt8[np.ndarray, "h w 4"]) -> str:
    """A picture as a data URI; one without colour is stored without it."""
    colour, opacity = pixels[..., :3], pixels[..., 3]
    grey = bool((colour == colour[..., :1]).all())
    picture = Image.fromarray(np.stack([colour[..., 0], opacity], -1), "LA") if grey else Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_uri(pixels: UInt8[np.ndarray, "h w 4"]) -> str:
    """A picture as a data URI: as PNG, or where that takes much and WebP less, as WebP."""
    png = png_uri(pixels)
    if len(png) < _WEBP_FROM:
        return png
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=88)
    webp = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return min(png, webp, key=len)
