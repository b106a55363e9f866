"""A network's own preprocessing as a module, beside the processors of transformers themselves."""

import pytest
import torch

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.models.preprocess import Preprocess, Steps, check_against, settings_of, steps_for, steps_of

transformers = pytest.importorskip("transformers")
CASES = {
    "vit": ("ViTImageProcessor", {}),
    "vit-bicubic-rectangle": ("ViTImageProcessor", {"size": {"height": 24, "width": 40}, "resample": 3}),
    "vit-nearest": ("ViTImageProcessor", {"size": {"height": 20, "width": 20}, "resample": 0}),
    "vit-lanczos": ("ViTImageProcessor", {"size": {"height": 120, "width": 120}, "resample": 1}),
    "vit-box": ("ViTImageProcessor", {"size": {"height": 33, "width": 33}, "resample": 4}),
    "vit-no-resize": ("ViTImageProcessor", {"do_resize": False}),
    "vit-no-rescale": ("ViTImageProcessor", {"do_rescale": False}),
    "vit-no-normalise": ("ViTImageProcessor", {"do_normalize": False}),
    "vit-factor": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
    "clip": ("CLIPImageProcessor", {}),
    "clip-odd": ("CLIPImageProcessor", {"size": {"shortest_edge": 51}, "crop_size": {"height": 38, "width": 45}}),
    "clip-crop-only": ("CLIPImageProcessor", {"do_resize": False, "crop_size": {"height": 64, "width": 64}}),
    "clip-border": ("CLIPImageProcessor", {"do_resize": False, "crop_size": {"height": 161, "width": 241}}),
    "clip-no-crop": ("CLIPImageProcessor", {"do_center_crop": False, "size": {"shortest_edge": 40}}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
    "longest": ("BitImageProcessor", {"size": {"shortest_edge": 60, "longest_edge": 80}, "do_center_crop": False}),
    "convnext-crops": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "convnext-share": ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.95}),
    "convnext-warps": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "beit": ("BeitImageProcessor", {"do_center_crop": True}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
    "deit": ("DeiTImageProcessor", {}),
    "levit": ("LevitImageProcessor", {}),
    "mobilevit": ("MobileViTImageProcessor", {}),
    "efficientnet": ("EfficientNetImageProcessor", {}),
    "efficientnet-offset": ("EfficientNetImageProcessor", {"rescale_offset": True, "include_top": False}),
}


def processor(name: str, change: dict):
    found = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)  # the latter before version 5
    return found(**change)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_processor_itself(case):
    own = processor(*CASES[case])
    check_against(Preprocess(steps_of(settings_of(own), type(own).__name__)), own)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"resample": 2}, "differ by"), ({"size": {"height": 225, "width": 224}}, r"not \[1, 3, 225, 224\]")],
)
def test_steps_that_are_not_the_processors_are_found_out(change, message):
    own = processor("ViTImageProcessor", {"resample": 3})
    with pytest.raises(InputError, match=message):
        check_against(Preprocess(steps_of({**settings_of(own), **change}, type(own).__name__)), own)


def test_a_processor_with_steps_of_its_own_is_refused():
    own = processor("Qwen2VLImageProcessor", {})
    with pytest.raises(InputError, match="steps of its own"):
        check_against(Preprocess(steps_of(settings_of(own), type(own).__name__)), own)


def test_numbers_by_hand():
    steps = Steps(gain=(2.0, 4.0, 8.0), shift=(-1.0, 0.0, 1.0))
    given = torch.full((1, 3, 2, 2), 0.5)
    assert Preprocess(steps)(given)[0, :, 0, 0].tolist() == [0.0, 2.0, 5.0]
    assert steps_for(None, (0.5,), (0.25,)) == Steps(gain=(4.0,), shift=(-2.0,))


def test_grey_images_get_the_channels_of_the_network_and_others_are_refused():
    module = Preprocess(Steps(), 3)
    assert module(torch.rand(2, 1, 4, 4)).shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match="takes 3 channels, the images have 4"):
        module(torch.rand(2, 4, 4, 4))


@pytest.mark.parametrize(
    ("steps", "size", "seen"),
    [
        (Steps(size=(20, 30)), (50, 70), (0.0, 0.0, 1.0, 1.0)),
        (Steps(size=(40,), crop=(32, 32)), (80, 80), (0.1, 0.1, 0.9, 0.9)),
        (Steps(size=(40,), crop=(40, 40)), (40, 80), (0.0, 0.25, 1.0, 0.75)),
        (Steps(crop=(40, 40)), (20, 40), (-0.5, 0.0, 1.5, 1.0)),
        (Steps(cover=(20, 40), crop=(20, 40)), (40, 40), (0.25, 0.0, 0.75, 1.0)),
    ],
)
def test_what_is_seen_of_an_image(steps, size, seen):
    assert steps.seen(*size) == pytest.approx(seen)


@pytest.mark.parametrize(
    ("steps", "framing"),
    [
        (Steps(size=(20, 30), resample="box"), Framing(height=20, width=30, fit="stretch", resample="box")),
        (Steps(size=(40,), crop=(32, 32)), Framing(height=40, width=40, resample="bilinear")),
        (Steps(cover=(20, 40), crop=(20, 40)), Framing(height=20, width=40, resample="bilinear")),
        (Steps(crop=(40, 20)), Framing(height=40, width=20, resample="bilinear")),
        (Steps(), None),
    ],
)
def test_images_that_are_read_as_it_asks_need_no_resize(steps, framing):
    assert steps.framing() == framing
    if framing is not None:
        assert steps.resized(framing.height, framing.width) == (framing.height, framing.width)


def test_another_preprocessing_is_another_network():
    from unweave.core.hashing import hash_module

    ids = {
        hash_module(Preprocess(steps)) for steps in (Steps(), Steps(size=(4, 4)), Steps(size=(4,)), Steps(gain=(2.0,)))
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    "settings", [{"do_resize": True}, {"do_resize": True, "size": {"x": 3}}, {"do_normalize": True}]
)
def test_settings_that_lack_something_are_named(settings):
    with pytest.raises(InputError, match="image processor Strange"):
        steps_of(settings, "Strange")
