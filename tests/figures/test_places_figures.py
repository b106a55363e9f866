"""Frames, enlarged places and heat maps, pixel by pixel."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from unweave.figures.contexts import TopToken, around, shown
from unweave.figures.latents import LatentCard, gallery, latent_card
from unweave.figures.places import PlacedImage, place_sheet, scale_strip
from unweave.store.layout import Box


def placed(**changes):
    image = np.zeros((3, 40, 40), np.uint8)
    image[:, 10:20, 20:30] = 200
    heat = np.zeros((4, 4))
    heat[1, 2], heat[0, 0] = 2.0, np.nan
    return PlacedImage(**{"image": image, "value": 2.0, "box": Box(0.25, 0.5, 0.5, 0.75), "heat": heat, **changes})


def test_the_frame_lies_around_the_place_and_leaves_it_as_it_is():
    picture = placed().framed(40)
    assert (picture[10:20, 20:30][1:-1, 1:-1] == 200).all()
    changed = (picture != np.moveaxis(placed().image, 0, -1)).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 21, 18, 31)


def test_a_frame_at_the_border_stays_inside():
    one = placed(box=Box(0.9, 0.9, 1.2, 1.2))
    assert one.framed(40).shape == (40, 40, 3)
    assert one.enlarged(8).shape == (8, 8, 3)


def test_the_place_is_enlarged_and_what_is_none_has_no_picture():
    assert (placed().enlarged(30) == 200).all()
    assert placed(box=None).enlarged() is None
    assert not placed(box=None).framed(40)[:10].any()


def test_heat_lies_over_its_place_nothing_over_silence_and_white_over_what_is_missing():
    picture = placed().heated(2.0, 40).astype(int)
    spread = picture.max(-1) - picture.min(-1)
    assert (spread[10:20, 20:30] > 30).all()
    assert not spread[20:].any()
    assert (picture[:10, :10] > 200).all()
    outside = placed(area=(0.5, 0.5, 1.0, 1.0)).heated(2.0, 40)
    assert (outside[:20] > 200).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 60), (3, 300, 200)])
def test_a_sheet_has_three_tiles_for_each_example_whatever_its_shape(shape):
    one = placed(image=np.full(shape, 90, np.uint8))
    sheet = place_sheet([one] * 3, 2.0, columns=2, side=50)
    assert sheet.shape == (50 * 2 + 3, 2 * (3 * 50 + 6 + 10) - 10, 4)
    assert (sheet[53:, 166:, 3] == 0).all()
    assert scale_strip(16, 2).shape == (2, 16, 3)


def card(**changes):
    numbers = {"rate": 0.1, "count": 3}
    plain = {"images": None, "histogram": np.array([1, 2]), "largest": 2.0, "class_names": None}
    return LatentCard(latent=3, numbers=numbers, class_counts=None, class_totals=None, **{**plain, **changes})


def test_cards_show_places_or_tokens():
    context = around(["a", "b", "<x>", "$d$"], np.array([0, 1.5, np.nan, 2.0]), 3)
    assert (context.strongest, context.value, context.before) == (3, 2.0, False)
    cards = [
        card(places=[placed()]),
        card(contexts=[context], tokens=[TopToken(token="$d$", count=1, share=1, expected=0)]),
    ]
    figures = [gallery(cards), *map(latent_card, cards)]
    assert all(isinstance(figure, Figure) for figure in figures)
    for figure in figures:
        figure.canvas.draw()


def test_tokens_can_be_read():
    assert [shown(token) for token in ("Ġgood", "▁film", "\n", "", "a\x00")] == ["·good", "·film", "⏎", "∅", "a�"]
    far = around([str(i) for i in range(50)], np.arange(50.0), 25, reach=2)
    assert (far.tokens, far.strongest, far.before, far.after) == ([str(i) for i in range(23, 28)], 2, True, True)
