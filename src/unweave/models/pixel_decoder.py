"""A pixel decoder: from a layer's activation back to the image that it came from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from unweave.core.errors import InputError, StoreError
from unweave.core.hashing import hash_module
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.models.base import linear
from unweave.models.fitting import Curves, Fit, LabelledImages, descend, image_batches
from unweave.models.hooks import HookPoints
from unweave.store.artifact import Identity, existing, read_manifest, writing
from unweave.store.files import load_table, load_tensors, save_table, save_tensors

KIND = "pixel-decoder"
_WEIGHTS = "decoder.safetensors"
_CURVES = "curves.parquet"


class PixelDecoder(nn.Module):
    """Images of rows: sigmoid(x W + b), one linear layer.

    A deeper decoder would draw better pictures, and tell less: what it has learned of images could not be told from
    what the row holds.

    Attributes:
        d_in: width of a row.
        shape: channels, height and width of an image.
        hook_name: dotted name of the module whose output the rows are.
    """

    def __init__(
        self, d_in: int, shape: tuple[int, int, int], generator: torch.Generator, *, hook_name: str = ""
    ) -> None:
        super().__init__()
        self.d_in, self.shape, self.hook_name = d_in, shape, hook_name
        self.linear = linear(d_in, shape[0] * shape[1] * shape[2], generator)

    def forward(self, rows: Float[Tensor, "n d_in"]) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1]."""
        pixels: Tensor = torch.sigmoid(self.linear(rows)).unflatten(-1, self.shape)
        return pixels


@dataclass(frozen=True, eq=False)
class TrainedDecoder:
    """A pixel decoder and how it got there.

    Attributes:
        module: the decoder, in evaluation mode.
        curves: `step`, `epoch`, `train_loss` and, at the ends of epochs, `test_mse`.
        id: fingerprint of how it was made.
    """

    module: PixelDecoder
    curves: Curves
    id: str

    @property
    def test_mse(self) -> float:
        """Mean squared error of a test image's pixels after the last epoch."""
        return self.curves["test_mse"][-1]


def train_decoder(
    model: nn.Module,
    at: str,
    fit: Fit,
    train: LabelledImages,
    test: LabelledImages,
    *,
    seed: int,
    out: Path,
    runtime: Runtime | None = None,
    label: str | None = "Training the pixel decoder",
) -> TrainedDecoder:
    """Train a pixel decoder of a hook point on mean squared error, and write it as an artifact, or read it back.

    Args:
        model: whose hook point is decoded; it is left as it was.
        at: dotted name of the module.
        fit: how the decoder is trained.
        train: images to train on.
        test: images to judge on.
        seed: decides the start and the order of the images.
        out: folder of the artifact.
        runtime: device and the like.
        label: of the progress bar; none is shown without.

    Raises:
        InputError: the hook point gives no rows [n, d_in], or `out` holds something else.
    """
    runtime = runtime or Runtime()
    inputs = {"train": train.id, "test": test.id, "model": hash_module(model)}
    identity = Identity(kind=KIND, config={"at": at, "fit": fit}, inputs=inputs, seed=seed)
    if existing(out, identity):
        found = load_decoder(out)
        found.module.to(runtime.torch_device())
        return found
    points = HookPoints(model, at)
    device = next(model.parameters()).device
    first = test.pixels(torch.zeros(1, dtype=torch.int64)).float()
    row = points.read(first.to(device))[at]
    if row.ndim != 2:
        raise InputError(f"{at!r} gives {list(row.shape)}; a pixel decoder needs a hook point that gives [b, d_in]")
    generator = torch_generator(seed, "pixel decoder")
    decoder = PixelDecoder(row.shape[1], train.shape, generator, hook_name=at).to(runtime.torch_device())

    with runtime.threads_for(6 * fit.batch_size * row.shape[1] * first.numel()):
        curves = descend(
            decoder,
            fit,
            train,
            lambda batch: mse_loss(decoder(batch.given), batch.images),
            lambda: {"test_mse": float(pixel_errors(decoder, model, at, test).mean())},
            seed=seed,
            label=label,
            given=lambda pixels: points.read(pixels.to(device))[at],
        )
    with writing(out, identity) as draft:
        save_tensors(draft.folder / _WEIGHTS, {name: value.clone() for name, value in decoder.state_dict().items()})
        save_table(draft.folder / _CURVES, curves)
        draft.details.update(d_in=decoder.d_in, shape=list(decoder.shape), hook_name=at)
    return TrainedDecoder(decoder.eval(), curves, identity.id)


def load_decoder(folder: Path) -> TrainedDecoder:
    """Read a pixel decoder that `train_decoder` wrote.

    Raises:
        StoreError: the folder is no pixel decoder, or a file in it is missing or damaged.
    """
    manifest = read_manifest(folder, KIND, verify=True)
    channels, height, width = manifest.details["shape"]
    shape, hook_name = (channels, height, width), str(manifest.details["hook_name"])
    decoder = PixelDecoder(int(manifest.details["d_in"]), shape, torch.Generator(), hook_name=hook_name)
    try:
        decoder.load_state_dict({name: value.clone() for name, value in load_tensors(folder / _WEIGHTS).items()})
    except RuntimeError as error:
        raise StoreError(f"{folder / _WEIGHTS} does not fit its manifest: {error}") from None
    return TrainedDecoder(decoder.eval(), load_table(folder / _CURVES).to_pydict(), manifest.id)


@torch.no_grad()
def pixel_errors(decoder: nn.Module, model: nn.Module, at: str, images: LabelledImages) -> Float[Tensor, " n"]:
    """Mean squared error over the pixels of each image that a decoder draws of a hook point's rows."""
    points = HookPoints(model, at)
    device = next(model.parameters()).device
    found = []
    for batch in image_batches(images, 2048):
        shown = batch.images.to(device)
        found.append((decoder(points.read(shown)[at]) - shown).square().flatten(1).mean(1).cpu())
    return torch.cat(found)
