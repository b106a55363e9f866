"""One bright patch of an image must show at its own place, in every family of networks."""

import pytest
import torch
from tiny_networks import write_network
from torch import nn

from unweave.capture import capture
from unweave.models.pretrained import Pretrained
from unweave.store.layout import Layout

pytest.importorskip("transformers", reason="needs transformers")

# What is hooked: early parts, where random weights have not yet mixed what the places hold.
FAMILIES = {
    "beit": ("beit.layers.0", (4, 4, 1)),
    "clip": ("vision_model.encoder.layers.0", (4, 4, 1)),
    "convnext": ("convnext.encoder.stages.0", (7, 7, 0)),
    "data2vec": ("data2vec_vision.encoder.layer.0", (4, 4, 1)),
    "deit": ("deit.layers.0", (4, 4, 2)),
    "dinov2": ("encoder.layer.0", (4, 4, 1)),
    "dinov2-registers": ("encoder.layer.0", (4, 4, 5)),
    "dinov3": ("model.layer.0", (4, 4, 5)),
    "hiera": ("hiera.encoder.stages.0", (8, 8, 0)),
    "ijepa": ("layers.0", (4, 4, 0)),
    "mae": ("layers.0", (4, 4, 1)),
    "mobilenet": ("mobilenet_v2.layer.0", (8, 8, 0)),
    "pvt": ("pvt.encoder.block.0.0", (8, 8, 0)),
    "resnet": ("resnet.encoder.stages.0", (7, 7, 0)),
    "sam": ("vision_encoder.layers.0", (8, 8, 0)),
    "siglip": ("vision_model.encoder.layers.0", (4, 4, 0)),
    "swin": ("swin.encoder.layers.0.blocks.0", (8, 8, 0)),
    "vit": ("vit.layers.0", (4, 4, 1)),
}
BESIDE = ("mobilenet",)
"""Networks whose convolutions look further to the right and down than to the left and up."""


def rows_of(net: nn.Module, images: torch.Tensor, at: str) -> tuple[torch.Tensor, Layout]:
    """Rows [image, place, d] without those of the tokens before the places, and their layout."""
    store = capture(net, images, at=at, rows="position", prefix="drop")
    return store.rows(0, store.n).view(len(images), -1, store.d_in), store.layout


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bright_patch_shows_at_its_place(family, tmp_path):
    at, (height, width, before) = FAMILIES[family]
    net = Pretrained(name=str(write_network(family, tmp_path))).build((0, 0, 0), 0, torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0)) / 8 + 0.3
    plain, layout = rows_of(net, images, at)
    assert (layout.kind, layout.height, layout.width, layout.prefix) == ("grid", height, width, before)
    for row, column in ((1, 2), (2, 1), (height - 2, width - 2), (1, width - 2)):
        position = layout.position(row, column)
        top, left, bottom, right = layout.box(position).pixels(80, 80)
        lit = images.clone()
        lit[:, :, top:bottom, left:right] = 1.0
        moved = (rows_of(net, lit, at)[0] - plain)[0].norm(dim=1).numpy()
        heat = layout.heat(torch.arange(len(moved)).numpy() + layout.first, moved)
        found = divmod(int(heat.argmax()), width)
        assert max(abs(found[0] - row), abs(found[1] - column)) <= (family in BESIDE)


def test_a_network_whose_tokens_come_in_an_order_of_their_own_says_so(tmp_path):
    net = Pretrained(name=str(write_network("hiera", tmp_path))).build((0, 0, 0), 0, torch.Generator())
    images = torch.rand(1, 3, 32, 32)
    unrolled = capture(net, images, at="hiera.encoder.stages.0", rows="position").layout
    # Two rounds of pooling by 2 x 2: first the even places of the even places, four to a row of two.
    assert unrolled.order[:4] == (0, 4, 32, 36)
    assert sorted(unrolled.order) == list(range(64))
    assert capture(net, images, at="hiera.embeddings", rows="position").layout.order == ()
    pooled = capture(net, images, at="hiera.encoder.stages.2", rows="position").layout
    assert (pooled.height, pooled.width, pooled.order) == (2, 2, ())
