"""Planted truth: a bright square at a known place, and a latent that fires on brightness, has to be found there."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from unweave.analyze import Analysis, Atlas, analyze
from unweave.analyze.places import RowsOfExamples, values_at
from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.topk import TopK
from unweave.store.layout import ImageView

QUICK = Analysis(permutations=9, top=4)
SIDE, PATCH = 48, 8


class Brightness(nn.Module):
    """Patches of 8 × 8 to their mean brightness, as tokens after `before` others; may look at a part of the image."""

    def __init__(self, before=0, crop=0, *, feature_map=False):
        super().__init__()
        self.before, self.crop, self.feature_map = before, crop, feature_map
        self.patches = nn.AvgPool2d(PATCH)
        self.tokens = nn.Identity()

    def image_view(self, height, width):
        c = self.crop
        area = (c / height, c / width, 1 - c / height, 1 - c / width)
        return ImageView(area, (height - 2 * c, width - 2 * c))

    def forward(self, x):
        c = self.crop
        x = x[:, :, c : x.shape[2] - c, c : x.shape[3] - c]
        mean = self.patches(x)
        rows = torch.cat([mean, 1 - mean], 1)
        if self.feature_map:
            return self.tokens(rows)
        rows = rows.flatten(2).transpose(1, 2)
        others = torch.zeros(len(x), self.before, rows.shape[2])
        return self.tokens(torch.cat([others, rows], 1))


@pytest.fixture
def detector() -> Dictionary:
    """Latent 0 is brightness over 0.5, latent 1 never fires."""
    sae = TopK(d_sae=2, k=1).build(2)
    with torch.no_grad():
        sae.b_dec.zero_()
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        sae.b_enc.copy_(torch.tensor([-0.5, -1.0]))
        sae.W_dec.copy_(torch.eye(2))
    return sae.to_inference()


def planted(crop=0):
    """Dark images with one bright square each, and where its row and column of patches are."""
    images = torch.full((10, 1, SIDE, SIDE), 0.1)
    side = (SIDE - 2 * crop) // PATCH
    where = [(i % side, (2 * i + 1) % side) for i in range(10)]
    for i, (row, column) in enumerate(where):
        top, left = crop + row * PATCH, crop + column * PATCH
        images[i, :, top : top + PATCH, left : left + PATCH] = 0.6 + 0.04 * i
    return images, where


@pytest.mark.parametrize(
    ("network", "crop", "prefix"),
    [
        (Brightness(feature_map=True), 0, "keep"),
        (Brightness(), 0, "keep"),
        (Brightness(before=1), 0, "keep"),
        (Brightness(before=5), 0, "drop"),
        (Brightness(before=1, crop=8), 8, "keep"),
        (Brightness(before=1, crop=4), 4, "drop"),
    ],
)
def test_box_and_heat_map_point_at_the_bright_square(detector, network, crop, prefix):
    images, where = planted(crop)
    store = capture(network, images, at="tokens", rows="position", prefix=prefix)
    atlas = analyze(detector, store, images=images, analysis=QUICK)
    found = atlas.placed_images(0)
    assert [round(one.value, 2) for one in found] == [0.46, 0.42, 0.38, 0.34]
    for one, example in zip(found, (9, 8, 7, 6), strict=True):
        row, column = where[example]
        top, left, bottom, right = one.box.pixels(SIDE, SIDE)
        assert (top, left, bottom, right) == (
            crop + row * PATCH,
            crop + column * PATCH,
            crop + (row + 1) * PATCH,
            crop + (column + 1) * PATCH,
        )
        assert np.unravel_index(np.nanargmax(one.heat), one.heat.shape) == (row, column)
        assert (np.nan_to_num(one.heat) > 0).sum() == 1
        assert (one.image[0, top:bottom, left:right] > 150).all()
        assert one.enlarged(16).min() > 150
        heated = one.heated(0.5, SIDE)
        middle = heated[(top + bottom) // 2, (left + right) // 2].astype(int)
        assert middle[0] > middle[2] + 50  # warm where it fires
        if crop:
            assert heated[0, 0].min() > 200  # what the network does not see fades to white
    assert isinstance(atlas.show(0), Figure)
    assert atlas.placed_images(1) == []


def test_tokens_that_are_no_place_never_show_as_a_patch(detector):
    def mark(_module, _inputs, tokens):
        return torch.cat([torch.full_like(tokens[:, :1], 5.0), tokens[:, 1:]], 1)  # the first is strongest by far

    network = Brightness(before=1)
    network.tokens.register_forward_hook(mark)
    images, where = planted()
    kept = analyze(detector, capture(network, images, at="tokens", rows="position"), images=images, analysis=QUICK)
    assert all(one.box is None and one.enlarged() is None for one in kept.placed_images(0))
    left_out = capture(network, images, at="tokens", rows="position", prefix="drop")
    found = analyze(detector, left_out, images=images, analysis=QUICK).placed_images(0)
    assert found[0].box.pixels(SIDE, SIDE)[:2] == (where[9][0] * PATCH, where[9][1] * PATCH)


def test_one_row_stands_for_an_example_and_counts_are_of_rows(detector):
    images = torch.full((3, 1, SIDE, SIDE), 0.9)
    images[1] = 0.1
    images[2, :, :PATCH] = 0.1
    atlas = analyze(
        detector, capture(Brightness(), images, at="tokens", rows="position"), images=images, analysis=QUICK
    )
    assert atlas.examples_of(0, "value")["example"].to_pylist() == [0, 2]
    assert atlas.column("count")[0] == 36 + 30
    assert atlas.places_of(0)[1].values.tolist() == pytest.approx([0] * 6 + [0.4] * 30, abs=1e-5)


def test_rows_in_any_order_are_found_by_example():
    example = np.array([4, 1, 4, 0, 1])
    rows = RowsOfExamples.of(example)
    assert [rows[e].tolist() for e in (0, 1, 4, 2)] == [[3], [1, 4], [0, 2], []]
    ordered = RowsOfExamples.of(np.array([0, 0, 2]))
    assert [ordered[e].tolist() for e in (0, 1, 2)] == [[0, 1], [], [2]]
    fires, value = np.array([1, 4], np.int32), np.array([0.5, 2.0], np.float32)
    assert values_at(fires, value, np.array([0, 1, 2, 4])).tolist() == [0, 0.5, 0, 2]
    assert values_at(fires[:0], value[:0], np.array([3])).tolist() == [0]


def test_an_atlas_without_a_layout_shows_whole_images(detector, tmp_path, monkeypatch):
    images, _ = planted()
    store = capture(Brightness(feature_map=True), images, at="tokens", rows="position")
    monkeypatch.delitem(store.manifest.details, "layout")
    assert store.layout is None
    atlas = analyze(detector, store, images=images, analysis=QUICK, out=tmp_path / "atlas")
    assert Atlas(tmp_path / "atlas").layout is None
    assert (atlas.placed_images(0), atlas.places_of(0), atlas.contexts_of(0)) == ([], [], [])
    assert len(atlas.card(0).images) == 4


def test_tokens_are_shown_in_context_beside_their_frequency(detector):
    texts = [["[CLS]", "a", "good", "film"], ["[CLS]", "bad"], ["[CLS]", "good", "good"]]
    bright = {"good": 0.9}
    rows = torch.zeros(3, 4, 2)
    mask = torch.zeros(3, 4, dtype=torch.int64)
    for i, tokens in enumerate(texts):
        mask[i, : len(tokens)] = 1
        for t, token in enumerate(tokens):
            rows[i, t] = bright.get(token, 0.1) + 0.01 * i

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x, attention_mask):
            return self.layer(x)

    store = capture(Reads(), [{"x": rows, "attention_mask": mask}], at="layer", rows="position")
    assert store.n == 9
    atlas = analyze(detector, store, tokens=texts, analysis=QUICK)
    first, second = atlas.contexts_of(0)
    assert (first.tokens, first.strongest, second.tokens) == (texts[2], 1, texts[0])
    assert first.values.tolist() == pytest.approx([0, 0.42, 0.42])
    (top,) = atlas.top_tokens_of(0)
    assert (top.token, top.count, top.share, top.expected) == ("good", 3, 1.0, pytest.approx(3 / 9))
    assert atlas.top_tokens_of(1) == []
    assert isinstance(atlas.show(0), Figure)
    short = atlas.contexts_of(0, reach=0)[1]
    assert (short.tokens, short.before, short.after) == (["good"], True, True)
    with pytest.raises(InputError, match="text 1 has 1 tokens, but a row of position 1"):
        analyze(detector, store, tokens=[texts[0], ["[CLS]"], texts[2]], analysis=QUICK)
    with pytest.raises(InputError, match="example 2 was captured, but there are tokens of 2 texts"):
        analyze(detector, store, tokens=texts[:2], analysis=QUICK)
