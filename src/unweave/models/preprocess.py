"""A pretrained network's own preprocessing as its first layer: images in [0, 1] of any size to what it was trained on.

The steps are those of the image processors of transformers: resize, centre crop, rescale, normalise, pad. They are read
from a processor's settings, and the result is held against the processor itself, so that a step that is not known here
is an error and not another network than the one that was meant.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.framing import Filter, Framing
from unweave.core.seeds import torch_generator
from unweave.models.resampling import resize

TOLERANCE = 2.0
"""Grey levels of 255 by which one pixel may differ from the processor's, which rounds to bytes between its steps."""

# As Pillow numbers them.
_FILTER_NUMBERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_LEVIT = 256 / 224
_CONVNEXT_WARPS_FROM = 384


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to an image, in this order.

    Attributes:
        size: (height, width); or the length of the shorter side alone; or nothing is resized.
        longest: the longer side is at most so long, where only the shorter one is given.
        within: (height, width) that the image is fitted into, its aspect kept.
        cover: (height, width) that the image just covers, its aspect kept.
        resample: filter of the resize.
        flip: whether the order of the channels is turned round (RGB to BGR).
        crop: (height, width) that is cut from the centre; where the image is smaller, a border is added.
        fill: the border's colour, pixels in [0, 1], one number a channel (or one for all).
        rounds: sizes and the crop's place are rounded as torchvision and timm do: half a pixel to even, and not down.
        gain: pixels in [0, 1] are multiplied by it, one number a channel (or one for all).
        shift: and this is added.
        pad: (height, width) that is filled up with 0 at the right and at the bottom.
    """

    size: tuple[int, ...] = ()
    longest: int | None = None
    within: tuple[int, int] | None = None
    cover: tuple[int, int] | None = None
    resample: Filter = "bilinear"
    crop: tuple[int, int] | None = None
    fill: tuple[float, ...] = (0.0,)
    rounds: bool = False
    flip: bool = False
    gain: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    pad: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.resample not in get_args(Filter):
            raise InputError(f"resample is {self.resample!r}: give one of {', '.join(get_args(Filter))}")
        sizes = (*self.size, *(self.crop or ()), *(self.pad or ()), *(self.within or ()))
        if any(side < 1 for side in sizes) or len(self.size) > 2:
            raise InputError(f"sizes of a preprocessing must be at least 1, got {sizes}")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize."""
        if self.within is not None:
            scale = min(self.within[0] / height, self.within[1] / width)
            whole = round if self.rounds else int
            return max(1, whole(height * scale)), max(1, whole(width * scale))
        if self.cover is not None:
            scale = max(self.cover[0] / height, self.cover[1] / width)
            return max(self.cover[0], round(height * scale)), max(self.cover[1], round(width * scale))
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        if not self.size:
            return height, width
        short, long = min(height, width), max(height, width)
        wanted: float = self.size[0]
        if self.longest is not None and long / short * wanted > self.longest:
            wanted = self.longest * short / long
        sides = max(1, round(wanted)), max(1, int(wanted * long / short))
        return sides if height <= width else (sides[1], sides[0])

    def given(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the network gets of an image of this size."""
        return self.pad or self.crop or self.resized(height, width)

    def framing(self) -> Framing | None:
        """How an image file is best read for it: so that the resize has nothing left to do, where that is possible."""
        if self.within is not None:
            return Framing(height=self.within[0], width=self.within[1], resample=self.resample)
        if self.cover is not None:
            return Framing(height=self.cover[0], width=self.cover[1], resample=self.resample)
        if len(self.size) == 2:
            return Framing(height=self.size[0], width=self.size[1], fit="stretch", resample=self.resample)
        if self.size:
            return Framing(height=self.size[0], width=self.size[0], resample=self.resample)
        return None if self.crop is None else Framing(height=self.crop[0], width=self.crop[1], resample=self.resample)

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Top, left, bottom and right of what reaches the network, as shares of an image of this size.

        Below 0 or above 1 where the crop adds a black border.
        """
        tall, wide = self.resized(height, width)
        across, down = self.crop[1] if self.crop else wide, self.crop[0] if self.crop else tall
        top, left = self.corner(tall - down) / tall, self.corner(wide - across) / wide
        across, down = (self.pad[1], self.pad[0]) if self.pad else (across, down)
        return top, left, top + down / tall, left + across / wide

    def corner(self, room: int) -> int:
        """First row or column of a crop that leaves so many of them out; below 0 where it adds a border."""
        if not self.rounds:
            return room // 2
        return round(room / 2) if room > 0 else -(-room // 2)


class Preprocess(nn.Module):
    """Images [b, c, h, w] in [0, 1] of any size to the network's input; grey ones get the channels that it wants.

    Attributes:
        steps: what is done.
        channels: what the network takes; 0 if that is not known.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, steps: Steps, channels: int = 3) -> None:
        super().__init__()
        self.steps, self.channels = steps, channels
        self.register_buffer("gain", torch.tensor(steps.gain).view(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(steps.shift).view(-1, 1, 1))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b C H W"]:
        """What the network is to see.

        Raises:
            InputError: the images have other channels than the network.
        """
        if self.channels and images.shape[1] not in (1, self.channels):
            raise InputError(f"the model takes {self.channels} channels, the images have {images.shape[1]}")
        images = images.to(self.gain.dtype)
        images = resize(images, *self.steps.resized(*images.shape[2:]), self.steps.resample)
        if self.steps.crop is not None:
            images = self._cropped(images, *self.steps.crop)
        if self.channels > images.shape[1]:
            images = images.expand(-1, self.channels, -1, -1)
        images = (images.flip(1) if self.steps.flip else images) * self.gain + self.shift
        if self.steps.pad is not None:
            images = self._padded(images, *self.steps.pad)
        return images

    def _cropped(self, images: Tensor, height: int, width: int) -> Tensor:
        """The centre of images, filled up on all sides where they are smaller."""
        h, w = images.shape[2:]
        down, across = max(0, height - h), max(0, width - w)
        if down or across:
            # An odd row or column that is left over goes to the top and left in transformers, in torchvision not.
            top, left = -self.steps.corner(-down), -self.steps.corner(-across)
            border = (left, across - left, top, down - top)
            fill = images.new_tensor(self.steps.fill).view(-1, 1, 1)
            images = nn.functional.pad(images - fill, border) + fill
        top, left = self.steps.corner(max(0, h - height)), self.steps.corner(max(0, w - width))
        return images[:, :, top : top + height, left : left + width]

    def _padded(self, images: Tensor, height: int, width: int) -> Tensor:
        h, w = images.shape[2:]
        if h > height or w > width:
            raise InputError(f"images of {h} x {w} pixels cannot be filled up to {height} x {width}; give smaller ones")
        return nn.functional.pad(images, (0, width - w, 0, height - h))

    def extra_repr(self) -> str:
        """The steps: they belong to what the network is, and so to its fingerprint."""
        return f"{self.steps}, channels={self.channels}"


def steps_for(framing: Framing | None, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Steps:
    """The steps that resize images to a framing, if there is one, and then take (x − mean) / std of them.

    Args:
        framing: the size, and what becomes of the aspect.
        mean: one number, or one a channel; 0 by default.
        std: one number, or one a channel; 1 by default.
    """
    mean, std = tuple(mean) or (0.0,), tuple(std) or (1.0,)
    width = max(len(mean), len(std))
    pairs = list(zip(mean * (width // len(mean)), std * (width // len(std)), strict=True))
    gain, shift = tuple(1 / scale for _, scale in pairs), tuple(-at / scale for at, scale in pairs)
    if framing is None:
        return Steps(gain=gain, shift=shift)
    sides = (framing.height, framing.width)
    if framing.fit == "stretch":
        return Steps(size=sides, resample=framing.resample, gain=gain, shift=shift)
    return Steps(cover=sides, crop=sides, resample=framing.resample, gain=gain, shift=shift)


def steps_of(settings: Mapping[str, Any], name: str = "") -> Steps:
    """The steps that the settings of a processor stand for.

    Args:
        settings: as in `preprocessor_config.json`.
        name: the processor's class, for the few that read them in a way of their own.

    Raises:
        InputError: they lack what a step needs.
    """
    try:
        sizes = _sizes(settings, name.removesuffix("Fast").removesuffix("Pil"))
        gain, shift = _affine(settings)
        pad = _pair(settings.get("pad_size")) if settings.get("do_pad") and settings.get("pad_size") else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"the settings of the image processor {name} are not understood: {error!r}") from error
    return Steps(**sizes, flip=bool(settings.get("do_flip_channel_order")), gain=gain, shift=shift, pad=pad)


def _sizes(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.get("do_resize"):
        number = settings.get("resample")
        found["resample"] = _FILTER_NUMBERS[2 if number is None else int(number)]
        found |= _resize(settings, name)
    if settings.get("do_center_crop"):
        found["crop"] = _pair(settings["crop_size"])
    return found


def _resize(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = settings["size"]
    if isinstance(size, int) and not settings.get("default_to_square", True):  # as very old settings have it
        return {"size": (size,)}
    if isinstance(size, (int, list, tuple)):
        return {"size": _pair(size)}
    known = {key: int(value) for key, value in dict(size).items() if value is not None}
    if "shortest_edge" in known:
        short = known["shortest_edge"]
        if name == "ConvNextImageProcessor":
            return _convnext(short, float(settings.get("crop_pct") or 224 / 256))
        if name == "LevitImageProcessor":
            short = int(_LEVIT * short)
        return {"size": (short,), "longest": known.get("longest_edge")}
    return _fitted(known)


def _fitted(known: Mapping[str, int]) -> dict[str, Any]:
    """The resize to a size that is not that of the shorter side."""
    if set(known) == {"longest_edge"}:  # SAM
        return {"within": (known["longest_edge"], known["longest_edge"]), "rounds": True}
    if "max_height" in known:
        return {"within": (known["max_height"], known["max_width"])}
    return {"size": (known["height"], known["width"])}


def _convnext(short: int, share: float) -> dict[str, Any]:
    if short >= _CONVNEXT_WARPS_FROM:
        return {"size": (short, short)}
    return {"size": (int(short / share),), "crop": (short, short)}


def _affine(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What pixels in [0, 1] are multiplied by and what is added, for all steps that do such a thing."""
    gain, shift = [255.0], [0.0]
    if settings.get("do_rescale"):
        factor = float(settings.get("rescale_factor") or 1 / 255)
        gain, shift = [255.0 * factor], [-1.0 if settings.get("rescale_offset") else 0.0]
    if settings.get("do_normalize"):
        mean, std = _numbers(settings["image_mean"]), _numbers(settings["image_std"])
        width = max(len(mean), len(std))
        mean, std = mean * (width // len(mean)), std * (width // len(std))
        gain = [gain[0] / one for one in std]
        shift = [(shift[0] - at) / one for at, one in zip(mean, std, strict=True)]
        if settings.get("include_top"):  # EfficientNet divides by std once more
            gain = [value / one for value, one in zip(gain, std, strict=True)]
            shift = [value / one for value, one in zip(shift, std, strict=True)]
    return tuple(gain), tuple(shift)


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in value] if isinstance(value, (list, tuple)) else [float(value)]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (list, tuple)):
        return int(value[0]), int(value[-1])
    if isinstance(value, int):
        return value, value
    return int(value["height"]), int(value["width"])


def check_against(module: Preprocess, processor: Any) -> None:
    """Show the processor and the module the same images of several shapes, and compare what they give.

    Args:
        module: what was made of the processor's settings.
        processor: an image processor of transformers.

    Raises:
        InputError: the processor fails, or gives something else; the message says by how much.
    """
    name = type(processor).__name__
    for bytes_ in _probes(module):
        try:
            wanted = processor(images=[bytes_[0].numpy()], input_data_format="channels_first", return_tensors="pt")[
                "pixel_values"
            ]
        except Exception as error:  # a processor that wants something else may fail in any way
            raise InputError(f"{name} does not take one image alone ({type(error).__name__}: {error})") from error
        _compare(module, bytes_, wanted, name)


def check_transforms(module: Preprocess, transforms: Callable[[Any], Any], name: str) -> None:
    """Show a network's transforms and the module the same images of several shapes, and compare what they give.

    Args:
        module: what was made of their settings.
        transforms: from a Pillow image to [c, h, w].
        name: whose they are, for the message.

    Raises:
        InputError: they fail, or give something else; the message says by how much.
    """
    if module.channels not in (1, 3):  # Pillow has no images of other channels
        return
    for bytes_ in _probes(module):
        picture = Image.fromarray(bytes_[0].permute(1, 2, 0).squeeze(2).numpy())
        try:
            wanted = transforms(picture)
        except Exception as error:  # those of videos or of pairs may fail in any way
            raise InputError(f"{name} does not take one image alone ({type(error).__name__}: {error})") from error
        _compare(module, bytes_, wanted.unsqueeze(0) if isinstance(wanted, Tensor) else wanted, name)


def _probes(module: Preprocess) -> Iterator[UInt8[Tensor, "1 c h w"]]:
    """A wide and a tall image of noise.

    Neither black nor white: where a filter overshoots them, Pillow cuts in an order that depends on its version.
    """
    generator = torch_generator(0, "preprocessing probe")
    for height, width in ((96, 67), (150, 233)):
        shape = (1, module.channels or 3, height, width)
        yield torch.randint(64, 192, shape, generator=generator, dtype=torch.uint8)


def _compare(module: Preprocess, bytes_: UInt8[Tensor, "1 c h w"], wanted: object, name: str) -> None:
    height, width = bytes_.shape[2:]
    expected = [1, bytes_.shape[1], *module.steps.given(height, width)]
    if not isinstance(wanted, Tensor) or list(wanted.shape) != expected:
        found = list(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
        raise InputError(f"{name} makes {found} of an image of {height} x {width}, not {expected}: {_OWN}")
    levels = float(((wanted - module(bytes_.float() / 255)).abs() * 255 / module.gain.abs()).max())
    if not levels <= TOLERANCE:
        raise InputError(f"{name} gives pixels that differ by {levels:.1f} grey levels from its settings: {_OWN}")


_OWN = "it has steps of its own; wrap it by --model custom with a preprocessing of yours, or --model.preprocessing none"


def settings_of(processor: Any) -> dict[str, Any]:
    """The settings of an image processor of transformers as plain values."""
    return cast("dict[str, Any]", processor.to_dict())
