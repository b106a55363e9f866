"""How the positions at a hook point lie in an example: found from the shapes of the tensor and of the inputs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.models.rows import RowMeaning
from unweave.models.token_order import order_of
from unweave.store.layout import WHOLE_IMAGE, ImageView, Layout, find_grid, is_grid

Prefix = Literal["keep", "drop"]
_FEATURES_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
_STRIDED = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d)
_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm)


@runtime_checkable
class SeesImages(Protocol):
    """A model that resizes or crops the images that it is given, and says so."""

    def image_view(self, height: int, width: int) -> ImageView:
        """What it looks at of an image of this size."""
        ...


def view_of(model: nn.Module, height: int, width: int) -> ImageView:
    """What a model looks at of an image: all of it, unless it says otherwise."""
    if isinstance(model, SeesImages):
        return model.image_view(height, width)
    return ImageView(WHOLE_IMAGE, (height, width))


def patch_of(model: nn.Module) -> int | None:
    """Side of the patches that the model's first convolution cuts an image into; None where they overlap."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            side, step = cast("Sequence[int]", module.kernel_size), cast("Sequence[int]", module.stride)
            return int(side[0]) if side[0] == side[1] == step[0] == step[1] > 1 else None
    return None


def find_layout(
    model: nn.Module,
    name: str,
    tensor: Tensor,
    meaning: RowMeaning,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    *,
    prefix: Prefix = "keep",
) -> Layout:
    """The layout of a hook point's rows.

    A feature map is a grid. Tokens are a grid where the model is given images, and as many of them as an image makes
    (`find_grid`); else they are tokens.

    Args:
        model: the network.
        name: dotted name of the hook point.
        tensor: what it gave for one batch.
        meaning: what a row is.
        inputs: of the pass.
        keywords: of the pass.
        prefix: whether tokens that stand before those of the places give rows.

    Raises:
        InputError: the tokens could be those of an image as well as those of a text, or a prefix cannot be dropped.
    """
    image, texts = _inputs(inputs, keywords)
    view = None if image is None else view_of(model, *image)
    last = tensor.ndim == 4 and _channels_last(model, name, tensor, view)
    if meaning not in ("position", "pool") or tensor.ndim < 3:
        return Layout(kind="whole", channels_last=last)
    found = _grid(model, name, tensor, view, texts, channels_last=last)
    if prefix == "drop":
        found = _dropped(found, name)
    return found if meaning == "position" else dataclasses.replace(found, kind="whole")


def _grid(
    model: nn.Module, name: str, tensor: Tensor, view: ImageView | None, texts: Sequence[int], *, channels_last: bool
) -> Layout:
    area = WHOLE_IMAGE if view is None else view.area
    if tensor.ndim == 4:
        height, width = tensor.shape[1:3] if channels_last else tensor.shape[2:]
        if view is not None and not _lies_over(model, height, width, view):
            return Layout(kind="tokens", channels_last=channels_last)
        return Layout(kind="grid", height=height, width=width, channels_last=channels_last, area=area)
    tokens = tensor.shape[1]
    grid = None if view is None else find_grid(tokens, view.size, patch_of(model))
    if grid is None:
        return Layout(kind="tokens")
    if tokens in texts:
        raise InputError(
            f"{name!r} gives {tokens} tokens, as many as the text has, and as many as the image's patches with "
            f"{grid[2]} before them; say which they are: layout=Layout(kind='tokens') or layout=Layout(kind='grid', "
            f"height={grid[0]}, width={grid[1]}, prefix={grid[2]})"
        )
    height, width, before = grid
    order = order_of(model, name, height, width)
    return Layout(kind="grid", height=height, width=width, prefix=before, area=area, order=order)


def _lies_over(model: nn.Module, height: int, width: int, view: ImageView) -> bool:
    """Whether a feature map of this size can lie over the image; windows and heads of an attention do not.

    It has the image's aspect, unless the network goes down the image in other steps than across.
    """
    if is_grid(height, width, view.size):
        return True
    fits = height <= view.size[0] and width <= view.size[1]
    return fits and any(_steps_unevenly(module) for module in model.modules())


def _steps_unevenly(module: nn.Module) -> bool:
    stride = getattr(module, "output_size" if isinstance(module, _ADAPTIVE) else "stride", None)
    return isinstance(module, (*_STRIDED, *_ADAPTIVE)) and isinstance(stride, tuple) and len(set(stride)) > 1


def _dropped(found: Layout, name: str) -> Layout:
    if found.kind != "grid":
        raise InputError(
            f"{name!r} gives {found.kind} whose prefix is not known, so it cannot be dropped; use prefix='keep', or "
            "say how they lie, with layout="
        )
    return dataclasses.replace(found, prefix_dropped=found.prefix > 0)


def check_layout(layout: Layout, tensor: Tensor, name: str) -> None:
    """Check that a tensor has the places that a layout names.

    Raises:
        InputError: it has not.
    """
    shape = list(tensor.shape)
    if layout.kind != "grid":
        return
    if tensor.ndim == 4:
        given = shape[1:3] if layout.channels_last else shape[2:]
        right = layout.prefix == 0 and given == [layout.height, layout.width]
    else:
        right = tensor.ndim == 3 and shape[1] == layout.prefix + layout.places
    if not right:
        before = f" after {layout.prefix} other tokens" if layout.prefix else ""
        raise InputError(
            f"{name!r} gives {shape}, which is no grid of {layout.height} × {layout.width} places{before}: give the "
            "layout that it has, or leave it to be found"
        )


def mask_of(inputs: Any) -> Tensor | None:
    """Which tokens are real [b, t], of token ids and their mask as one tensor [b, 2, t]; None of anything else."""
    if isinstance(inputs, Tensor) and inputs.ndim == 3 and inputs.shape[1] == 2 and not inputs.is_floating_point():
        return inputs[:, 1]
    return None


def _inputs(inputs: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[tuple[int, int] | None, list[int]]:
    """Height and width of the images, and the lengths of the texts, that a pass is given."""
    image: tuple[int, int] | None = None
    texts = []
    for value in (*inputs, *keywords.values()):
        if isinstance(value, Tensor) and value.ndim == 4 and image is None:
            image = (value.shape[2], value.shape[3])
        elif isinstance(value, Tensor) and value.ndim in (2, 3) and not value.is_floating_point():
            texts.append(value.shape[-1])
    return image, texts


def _channels_last(model: nn.Module, name: str, tensor: Tensor, view: ImageView | None) -> bool:
    """Whether a feature map is [b, h, w, c]: where only that can lie over the image, or the module says so by kind."""
    if view is None or view.size[0] < 2 or view.size[1] < 2:
        return False
    module = dict(model.named_modules()).get(name)
    said = getattr(module, "data_format", None)  # as the normalisations of ConvNeXt say it
    if isinstance(module, _FEATURES_FIRST) or said in ("channels_first", "channels_last"):
        return bool(said == "channels_last")
    tall, wide = view.size
    as_first, as_last = tensor.shape[2:], tensor.shape[1:3]
    exact = [height * wide == width * tall for height, width in (as_first, as_last)]
    near = [is_grid(height, width, view.size) for height, width in (as_first, as_last)]
    for first, last in (near, exact):
        if first != last:
            return last
    return isinstance(module, _FEATURES_LAST) and not type(module).__name__.endswith("2d")  # LayerNorm2d of timm
