"""Where a latent fires inside its examples: strips of pictures, tokens in context, and the colours' scale."""

import html
import math
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8

from unweave.app.opened import OpenAtlas
from unweave.app.pictures import png
from unweave.app.schema import ContextToken, TokenShare
from unweave.core.errors import InputError
from unweave.figures.contexts import Context, shown
from unweave.figures.places import PlacedImage, place_sheet, scale_strip

STRIP_SIDE = 112
_REACH = 16
_WARM = "209, 87, 11"


def has_places(opened: OpenAtlas) -> bool:
    """Whether rows are places of images that there are pictures of."""
    layout = opened.atlas.layout
    return layout is not None and layout.kind == "grid" and opened.atlas.thumbnails is not None


def strip_address(opened: OpenAtlas, latent: int, example: int) -> str:
    """Where an example's strip is served; the atlas's id makes it safe to keep."""
    run, role = quote(opened.run.entry.slug), quote(opened.role, safe="")
    return f"/api/runs/{run}/latents/{latent}/places/{example}.png?of={role}&v={opened.atlas.manifest.id}"


def strip_png(opened: OpenAtlas, latent: int, example: int) -> bytes:
    """An example with a frame around the latent's strongest place, that place enlarged, and the values of all places.

    Raises:
        InputError: rows are no places of images, or the atlas has no picture of this example.
    """
    if not has_places(opened):
        raise InputError(f"rows of {opened.role} are no places of images that there are pictures of")
    layout, thumbnails = opened.atlas.layout, opened.atlas.thumbnails
    assert layout is not None
    assert thumbnails is not None
    place = int(np.searchsorted(thumbnails.example, example))
    if place >= len(thumbnails.example) or thumbnails.example[place] != example:
        raise InputError(f"the atlas keeps no picture of image {example}")
    (found,) = opened.atlas.placed_at(latent, [example])
    picture = PlacedImage(
        image=np.asarray(thumbnails.pixels[place]),
        value=found.value,
        box=found.box(layout),
        heat=found.heat(layout),
        area=layout.area,
    )
    sheet = place_sheet([picture], float(opened.columns["max"][latent]), columns=1, side=STRIP_SIDE)
    return png(_on_white(sheet))


def _on_white(sheet: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "3 h w"]:
    pixels = np.where(sheet[..., 3:] > 0, sheet[..., :3], 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def scale_png() -> bytes:
    """The colours of values from 0 to the largest."""
    return png(np.ascontiguousarray(scale_strip(160, 10).transpose(2, 0, 1)))


def contexts(opened: OpenAtlas, latent: int, order: str) -> list[list[ContextToken]]:
    """The latent's examples as tokens around the strongest one; none where rows are no tokens.

    Raises:
        InputError: there is no such latent or order.
    """
    found = opened.atlas.contexts_of(latent, order, reach=_REACH)
    return [_tokens(one) for one in found]


def _tokens(context: Context) -> list[ContextToken]:
    pairs = zip(context.tokens, context.values.tolist(), strict=True)
    return [
        ContextToken(text=shown(text), value=None if math.isnan(value) else value, strongest=place == context.strongest)
        for place, (text, value) in enumerate(pairs)
    ]


def top_tokens(opened: OpenAtlas, latent: int) -> list[TokenShare]:
    """The tokens that a latent fires on beyond their frequency.

    Raises:
        InputError: there is no such latent.
    """
    found = opened.atlas.top_tokens_of(latent)
    return [TokenShare.model_validate({**vars(one), "token": shown(one.token)}) for one in found]


def context_html(tokens: list[ContextToken], largest: float) -> str:
    """Tokens as a line of a page: the stronger, the warmer their ground. What they hold is escaped."""
    return " ".join(_span(one, largest) for one in tokens)


def _span(token: ContextToken, largest: float) -> str:
    text = html.escape(token.text)
    if not token.value or token.value <= 0:
        return f'<span style="opacity:0.7">{text}</span>'
    ground = 0.15 + 0.7 * min(token.value / (largest or 1.0), 1.0)
    weight = "font-weight:700;" if token.strongest else ""
    style = f"{weight}background:rgba({_WARM},{ground:.2f});border-radius:2px"
    return f'<span style="{style}" title="{token.value:.3g}">{text}</span>'
