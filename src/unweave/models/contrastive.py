"""Fine-tuning of an embedding without labels: views of one image together, and which way up it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import (
    affine_grid,
    binary_cross_entropy_with_logits,
    cross_entropy,
    grid_sample,
    mse_loss,
    normalize,
)

from unweave.core.errors import InputError
from unweave.core.progress import progress
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.models.base import ModelConfig, linear
from unweave.models.classifier import TrainedModel, load_model
from unweave.models.embedding import EmbeddingNet, tuned_identity, write_embedding
from unweave.models.fitting import Curves
from unweave.store.artifact import existing, writing

_LOG_POINTS = 200
_HAS_BFLOAT16: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_GREY = (0.299, 0.587, 0.114)
_GREY_SHARE = 0.2
_ASPECT = 4 / 3


@runtime_checkable
class StreamedImages(Protocol):
    """What fine-tuning needs of a data set."""

    id: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def __len__(self) -> int: ...

    def stream(self, index: Iterable[Int64[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Pixels of many batches, the next made while one is in use."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """How an embedding is fine-tuned without labels, with Adam.

    `views`: two augmented views of each image; normalised temperature-scaled cross-entropy (NT-Xent: Chen et al., 2020,
    https://arxiv.org/abs/2002.05709) over cosines of the 2b embeddings behind a small head, which is then thrown away.
    Orientation: half of the images are turned by 180° (both views), and a linear layer tells from an embedding whether
    it was (after Gidaris et al., 2018, https://arxiv.org/abs/1803.07728): cross-entropy in nats.

    `published`: one view; cross-entropy of the dot products of the raw embeddings of a batch against the diagonal, plus
    the mean squared error between an embedding and minus that of the image turned by 180°. Embeddings that end in a
    ReLU cannot be each other's negatives: that part is least where all are zero, whichever way up images are.
    """

    form: Literal["views", "published"] = "views"
    "two augmented views with a temperature, or one view with raw dot products"
    epochs: int = 1
    "passes over the images; 0 takes the network as it is"
    batch_size: int = 128
    "images a step"
    learning_rate: float = 1e-3
    "Adam's step size"
    orientation: float = 1.0
    "weight of the orientation part"
    temperature: float = 0.2
    "cosines are divided by it (views)"
    projection: int = 128
    "width of the head's output; 0 compares embeddings themselves (views)"
    least_steps: int = 0
    "go over a small data set more often, until at least so many steps are taken"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    "of the network's products in training; bfloat16 is about twice as fast where the processor has it, and not used \
where it has not"
    smallest_crop: float = 0.3
    "a view is a random part of the image, of at least this share of its area (views)"
    jitter: float = 0.4
    "brightness, contrast and saturation change by up to this share (views)"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 2:
            raise InputError(
                f"epochs must not be negative and batch_size at least 2, got {self.epochs}, {self.batch_size}"
            )
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise InputError("learning_rate and temperature must be above 0")
        if not (0 < self.smallest_crop <= 1 and 0 <= self.jitter <= 1):
            raise InputError("smallest_crop is a share above 0 and at most 1, jitter one from 0 to 1")
        if self.orientation < 0 or self.projection < 0:
            raise InputError("orientation and projection must not be negative")


def fine_tune(
    config: ModelConfig,
    start: EmbeddingNet,
    fit: Contrastive,
    images: StreamedImages,
    *,
    seed: int,
    out: Path,
    runtime: Runtime | None = None,
) -> TrainedModel:
    """Fine-tune an embedding and write it as an artifact; one that is already there is read back.

    Args:
        config: what built the network.
        start: the network as it begins; it is trained in place.
        fit: how.
        images: without labels, in a new seeded order at each epoch.
        seed: decides orders and views.
        out: folder of the artifact.
        runtime: device and the like.

    Returns:
        The network, and curves with `step`, `epoch`, `loss`, `contrastive` and `orientation` (means since the row
        before).

    Raises:
        InputError: there are fewer than two images, the loss is no longer finite, or `out` holds something else.
    """
    device = (runtime or Runtime()).torch_device()
    if len(images) < 2:
        raise InputError(f"contrastive fine-tuning compares images: it needs at least 2, got {len(images)}")
    identity = tuned_identity(config, start, fit, images.id, seed)
    if existing(out, identity):
        found = load_model(out)
        found.module.to(device)
        return found
    start.to(device)
    curves = _descend(start, fit, images, seed)
    start.cpu().eval()
    with writing(out, identity) as draft:
        write_embedding(draft, start, images.shape, curves)
    return TrainedModel(start.to(device), curves, identity.id)


def _descend(module: EmbeddingNet, fit: Contrastive, images: StreamedImages, seed: int) -> Curves:
    objective = _Published(module, fit) if fit.form == "published" else _Views(module, fit, seed)
    optimizer = torch.optim.Adam([*module.parameters(), *objective.parameters()], lr=fit.learning_rate, fused=True)
    device = next(module.parameters()).device
    objective.to(device)
    per_epoch = _batches(len(images), fit.batch_size)
    epochs = fit.epochs and max(fit.epochs, -(-fit.least_steps // per_epoch))
    total = per_epoch * epochs
    every, step = max(1, total // _LOG_POINTS), 0
    curves: Curves = {name: [] for name in ("step", "epoch", "loss", "contrastive", "orientation")}
    since: list[Tensor] = []
    with progress("Fine-tuning", total=total * fit.batch_size, unit="images") as bar:
        for epoch in range(epochs):
            module.train()
            order = torch.randperm(len(images), generator=torch_generator(seed, "images", epoch))
            for pixels in images.stream(list(order.split(fit.batch_size))[:per_epoch]):
                generator = torch_generator(seed, "views", epoch, step)
                parts = objective.losses(pixels.to(device).float().div_(255), generator)
                optimizer.zero_grad()
                (parts[0] + fit.orientation * parts[1]).backward()
                optimizer.step()
                since.append(torch.stack(parts).detach())
                step += 1
                if len(since) >= every or step == total:
                    _log(curves, step, per_epoch, since, fit.orientation)
                    bar.advance(len(since) * fit.batch_size, loss=curves["loss"][-1])
                    since = []
    module.zero_grad()
    return curves


def _batches(n: int, size: int) -> int:
    """Batches of an epoch: all of one size, as the loss grows with it, unless there are too few images for one."""
    return max(1, n // size)


def _log(curves: Curves, step: int, per_epoch: int, since: list[Tensor], weight: float) -> None:
    contrastive, orientation = torch.stack(since).double().mean(0).tolist()
    loss = contrastive + weight * orientation
    row = {"step": step, "epoch": step / per_epoch, "loss": loss, "contrastive": contrastive}
    for name, value in {**row, "orientation": orientation}.items():
        curves[name].append(float(value))
    if not torch.isfinite(torch.tensor(loss)):
        raise InputError(f"the loss is no longer finite at step {step}; lower learning_rate")


class _Objective(nn.Module, ABC):
    """What one batch costs: the contrastive part and the orientation part."""

    def __init__(self, module: EmbeddingNet, fit: Contrastive) -> None:
        super().__init__()
        self.fit = fit
        self._embed = module.raw  # a method, not a submodule: its parameters are the module's own

    def _embedded(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Raw embeddings; the network's products in the precision that was asked for."""
        halved = self.fit.precision == "bfloat16" and (images.device.type != "cpu" or _HAS_BFLOAT16)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=halved):
            embedded: Tensor = self._embed(images)
        return embedded.float()

    @abstractmethod
    def losses(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of images in [0, 1]."""


class _Published(_Objective):
    def losses(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return published_losses(self._embedded(images), self._embedded(turned(images)))


class _Views(_Objective):
    def __init__(self, module: EmbeddingNet, fit: Contrastive, seed: int) -> None:
        super().__init__(module, fit)
        generator = torch_generator(seed, "head")
        width = module.width
        self.head = (
            nn.Sequential(linear(width, width, generator), nn.ReLU(), linear(width, fit.projection, generator))
            if fit.projection
            else nn.Identity()
        )
        self.upright = linear(width, 1, generator)

    def losses(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        upside_down = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
        given = torch.where(upside_down[:, None, None, None], turned(images), images)
        views = [Views.draw(len(given), generator, self.fit.smallest_crop, self.fit.jitter).of(given) for _ in range(2)]
        embedded = self._embedded(torch.cat(views))
        width = embedded.shape[1] ** 0.5  # brings rows of length 1 to rms 1, from which a linear layer learns faster
        answers = self.upright(width * normalize(embedded, dim=1)).squeeze(1)
        orientation = binary_cross_entropy_with_logits(answers, upside_down.repeat(2).float())
        first, second = self.head(embedded).chunk(2)
        return nt_xent(first, second, self.fit.temperature), orientation


def turned(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images turned by 180°."""
    return images.flip(2, 3)


def published_losses(
    embedded: Float[Tensor, "b d"], of_turned: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The published parts: cross-entropy of raw dot products against the diagonal, and mean (e + e')²."""
    diagonal = torch.arange(len(embedded), device=embedded.device)
    return cross_entropy(embedded @ embedded.T, diagonal), mse_loss(embedded, -of_turned)


def nt_xent(first: Float[Tensor, "b d"], second: Float[Tensor, "b d"], temperature: float) -> Float[Tensor, ""]:
    """Cross-entropy of each view's cosines with all others, divided by the temperature, against the other view's."""
    rows = normalize(torch.cat([first, second]), dim=1)
    scores = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    b = len(first)
    partner = (torch.arange(2 * b, device=rows.device) + b) % (2 * b)
    return cross_entropy(scores, partner)


@dataclass(frozen=True, eq=False)
class Views:
    """What makes a random view of each of n images: which part of it is seen, and in what colours.

    Attributes:
        places: affine maps from the view's coordinates to the image's.
        factors: of brightness, contrast and saturation.
        grey: whether it has no colours.
    """

    places: Float[Tensor, "n 2 3"]
    factors: Float[Tensor, "n 3"]
    grey: Bool[Tensor, " n"]

    @staticmethod
    def draw(n: int, generator: torch.Generator, smallest: float, jitter: float) -> "Views":
        """A random view of each image: part of it at full size, perhaps mirrored, recoloured, a fifth of them grey.

        Args:
            n: images.
            generator: on the CPU, so that views are the same on every device.
            smallest: least share of the area; the part's aspect is up to 4:3 either way.
            jitter: largest relative change of brightness, contrast and saturation.
        """

        def uniform(low: float, high: float) -> Float[Tensor, " n"]:
            return torch.empty(n).uniform_(low, high, generator=generator)

        area, aspect = uniform(smallest, 1), _ASPECT ** uniform(-1, 1)
        wide, tall = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        places = torch.zeros(n, 2, 3)
        places[:, 0, 0], places[:, 1, 1] = wide * mirror, tall
        places[:, 0, 2], places[:, 1, 2] = (1 - wide) * uniform(-1, 1), (1 - tall) * uniform(-1, 1)
        factors = torch.stack([uniform(1 - jitter, 1 + jitter) for _ in range(3)], 1)
        return Views(places, factors, uniform(0, 1) < _GREY_SHARE)

    def select(self, index: Int64[Tensor, " b"]) -> "Views":
        """Those of some images."""
        return Views(self.places[index], self.factors[index], self.grey[index])

    def of(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The views of images in [0, 1]."""
        if not len(images):
            return images
        device = images.device
        grid = affine_grid(self.places.to(device), list(images.shape), align_corners=False)
        seen = grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        brightness, contrast, saturation = self.factors.to(device).T[:, :, None, None, None]
        seen = seen * brightness
        if seen.shape[1] == 3:
            saturation = torch.where(self.grey.to(device)[:, None, None, None], 0.0, saturation)
            grey = (seen * torch.tensor(_GREY, device=device)[:, None, None]).sum(1, keepdim=True)
            seen = grey + saturation * (seen - grey)
        mean = seen.mean((1, 2, 3), keepdim=True)
        views: Tensor = (mean + contrast * (seen - mean)).clamp(0, 1)
        return views
