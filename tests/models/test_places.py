"""Where rows by position come from, over the families of networks that people have."""

import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints
from unweave.models.places import find_layout, patch_of
from unweave.store.layout import ImageView, Layout

transformers = pytest.importorskip("transformers", reason="needs transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def layout_at(model, at, images, meaning="position", **options):
    model.eval()
    tensor = HookPoints(model, at).read(images)[at]
    return find_layout(model, at, tensor, meaning, (images,), {}, **options)


def test_a_vit_has_a_class_token_before_its_patches():
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=56, patch_size=8))
    name = next(n for n, m in model.named_modules() if type(m).__name__ == "ViTLayer")
    found = layout_at(model, name, torch.rand(2, 3, 56, 56))
    assert found == Layout(kind="grid", height=7, width=7, prefix=1)
    assert patch_of(model) == 8


def test_registers_are_no_patches_either():
    config = transformers.Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14, num_register_tokens=4)
    model = transformers.Dinov2WithRegistersModel(config)
    found = layout_at(model, "encoder.layer.0", torch.rand(2, 3, 56, 56))
    assert found == Layout(kind="grid", height=4, width=4, prefix=5)
    dropped = layout_at(model, "encoder.layer.0", torch.rand(2, 3, 56, 56), prefix="drop")
    assert dropped.prefix_dropped


def test_images_need_not_be_square():
    config = transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14)
    found = layout_at(transformers.Dinov2Model(config), "encoder.layer.0", torch.rand(1, 3, 28, 84))
    assert (found.height, found.width, found.prefix) == (2, 6, 1)
    odd = layout_at(transformers.Dinov2Model(config), "encoder.layer.0", torch.rand(1, 3, 30, 61))
    assert (odd.height, odd.width, odd.prefix) == (2, 4, 1)


@pytest.mark.parametrize(("at", "height"), [("encoder.layers.0.blocks.0", 14), ("encoder.layers.1.blocks.0", 7)])
def test_stages_of_a_swin_have_grids_of_their_own(at, height):
    config = transformers.SwinConfig(
        image_size=56, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=7
    )
    found = layout_at(transformers.SwinModel(config), at, torch.rand(2, 3, 56, 56))
    assert found == Layout(kind="grid", height=height, width=height)


def test_modules_with_channels_last_are_told_apart():
    config = transformers.ConvNextConfig(hidden_sizes=[6, 8], depths=[1, 1], num_stages=2)
    model = transformers.ConvNextModel(config)
    images = torch.rand(2, 3, 32, 48)
    last = next(n for n, m in model.named_modules() if n.endswith("layers.0.pwconv2"))
    first = last.removesuffix("pwconv2") + "dwconv"
    assert layout_at(model, last, images) == Layout(kind="grid", height=8, width=12, channels_last=True)
    assert layout_at(model, first, images) == Layout(kind="grid", height=8, width=12)
    assert layout_at(model, last, images, "pool") == Layout(kind="whole", height=8, width=12, channels_last=True)


def test_a_resnet_gives_feature_maps():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    found = layout_at(transformers.ResNetModel(config), "encoder.stages.1", torch.rand(2, 3, 32, 32))
    assert found == Layout(kind="grid", height=4, width=4)


def test_text_gives_tokens_and_padding_no_rows():
    model = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=20))
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    store = capture(model, [{"input_ids": ids, "attention_mask": mask}], at="encoder.layer.0", rows="position")
    assert store.layout == Layout(kind="tokens")
    assert store.example.tolist() == [0] * 6 + [1] * 3
    assert store.position.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    pooled = capture(model, [{"input_ids": ids, "attention_mask": mask}], at="encoder.layer.0", rows="pool")
    assert torch.allclose(pooled.rows(1, 2), store.rows(6, 9).mean(0, keepdim=True), atol=1e-6)


def test_what_could_be_either_has_to_be_said():
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**SMALL, "vocab_size": 20, "projection_dim": 8, "eos_token_id": 19},
            vision_config={**SMALL, "image_size": 32, "patch_size": 16, "projection_dim": 8},
            projection_dim=8,
        )
    )
    batch = {"input_ids": torch.randint(0, 20, (2, 5)), "pixel_values": torch.rand(2, 3, 32, 32)}
    at = "vision_model.encoder.layers.0"
    with pytest.raises(InputError, match="5 tokens, as many as the text has"):
        capture(model, [batch], at=at, rows="position")
    said = Layout(kind="grid", height=2, width=2, prefix=1)
    store = capture(model, [batch], at=at, rows="position", layout=said, prefix="drop")
    assert (store.n, store.position.tolist()) == (8, [1, 2, 3, 4] * 2)
    with pytest.raises(InputError, match="no grid of 3 × 3"):
        capture(model, [batch], at=at, rows="position", layout=Layout(kind="grid", height=3, width=3, prefix=1))


class Cropping(nn.Module):
    """Looks at the middle half of an image, both ways."""

    def __init__(self):
        super().__init__()
        self.inner = nn.AvgPool2d(4)

    def forward(self, x):
        h, w = x.shape[2:]
        return self.inner(x[:, :, h // 4 : h - h // 4, w // 4 : w - w // 4])

    def image_view(self, height, width):
        return ImageView((0.25, 0.25, 0.75, 0.75), (height // 2, width // 2))


def test_what_is_cropped_lies_where_it_was_cropped_from():
    store = capture(Cropping(), torch.rand(1, 3, 32, 32), at="inner", rows="position")
    assert store.layout == Layout(kind="grid", height=4, width=4, area=(0.25, 0.25, 0.75, 0.75))
    assert store.layout.box(0).pixels(32, 32) == (8, 8, 12, 12)


def test_images_of_several_sizes_have_no_one_grid():
    batches = [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 16)]
    store = capture(nn.Sequential(nn.Conv2d(3, 5, 2, 2)), batches, at="0", rows="position")
    assert (store.n, store.layout.kind) == (16 + 32, "tokens")
    assert store.layout.box(0) is None


class Windows(nn.Module):
    """Makes of a feature map what heads of an attention see: [b, heads, d, tokens]."""

    def __init__(self):
        super().__init__()
        self.conv, self.windows, self.inner = nn.Conv2d(3, 32, 3), nn.Unflatten(1, (4, 8)), nn.Identity()

    def forward(self, x):
        return self.inner(self.windows(self.conv(x)).flatten(3))


def test_windows_and_heads_are_no_grid_over_the_image():
    found = layout_at(Windows(), "inner", torch.rand(2, 3, 18, 18))
    assert found == Layout(kind="tokens")


def test_a_network_may_go_down_an_image_in_other_steps_than_across():
    model = nn.Sequential(nn.Conv2d(3, 5, 1, stride=(8, 1)))
    found = layout_at(model, "0", torch.rand(2, 3, 32, 32))
    assert found == Layout(kind="grid", height=4, width=32)


class LayerNorm2d(nn.LayerNorm):
    """A LayerNorm of feature maps with their channels first, as timm has it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_as_many_channels_as_places_are_told_apart_by_the_module():
    images = torch.rand(1, 3, 8, 8)
    for norm, last in ((LayerNorm2d(8), False), (nn.LayerNorm(8), True)):
        assert layout_at(nn.Sequential(nn.Conv2d(3, 8, 1), norm), "1", images).channels_last is last
    said = nn.LayerNorm(8)
    said.data_format = "channels_first"
    assert not layout_at(nn.Sequential(nn.Conv2d(3, 8, 1), said), "1", images).channels_last
