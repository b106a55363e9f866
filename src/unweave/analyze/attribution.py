"""Where in an image a latent's value comes from, beside the same map of a control."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from unweave.core.errors import InputError, did_you_mean
from unweave.core.optional import needs
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side, evaluating
from unweave.models.replace import replacing, resolve_one
from unweave.models.rows import RowMeaning, to_rows

METHODS = ("integrated-gradients", "occlusion")
CONTROLS = ("model", "direction")
TARGETS = ("pre-activation", "code")
_AT_ONCE = 64
_ROUNDING = 1e-6
_CONTROLLED = {"model": "the model's weights dealt out again", "direction": "a random direction"}

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """A map of an image: what each pixel adds to a latent's value in one row.

    Attributes:
        map: for integrated gradients the pixel's share of `value` − `baseline_value`, summed over channels; for
            occlusion how far the value falls where a window over the pixel is hidden, mean over the windows.
        value: what is attributed, on the image.
        baseline_value: the same on the baseline.
        code: the latent's code in that row; 0 where it is silent.
        of: `pre-activation` or `code`, whichever was attributed.
        position: the row of the image that was looked at, the one where the latent is strongest.
        method: one of `METHODS`.
        gap: |Σ map − (value − baseline_value)| / |value − baseline_value|: what integrated gradients leave unexplained;
            NaN where both values are the same, and for occlusion, whose windows need not add up.
        control: the same map with the model's weights dealt out again, or of a random direction; None where none was
            asked for.
        controlled: which of them.
        similarity: Spearman's correlation of the sizes of both maps, over pixels where the image is not the baseline.
            Near 1, the map shows the image and not what was learned. NaN where it is not defined.
    """

    map: Float32[np.ndarray, "h w"]
    value: float
    baseline_value: float
    code: float
    of: str
    position: int
    method: str
    gap: float
    control: Float32[np.ndarray, "h w"] | None = None
    controlled: str = ""
    similarity: float = float("nan")

    @property
    def said(self) -> str:
        """What it shows, in two or three sentences."""
        what = "code" if self.of == "code" else "drive (its value before the activation)"
        said = f"The latent's {what} is {self.value:.3g} on this image and {self.baseline_value:.3g} on the baseline."
        if not np.isnan(self.gap):
            said += f" The map adds up to the difference, but for {100 * self.gap:.2g} % of it."
        if self.control is not None and not np.isnan(self.similarity):
            said += f" Its sizes correlate {self.similarity:.2f} with those of the same map with {self.controlled}."
        return said


def attribute(
    model: nn.Module,
    sae: Dictionary,
    image: Tensor,
    latent: int,
    *,
    at: str | None = None,
    method: str = "integrated-gradients",
    rows: RowMeaning = "flatten",
    side: Side = "output",
    of: str | None = None,
    baseline: str | Tensor = "black",
    steps: int = 64,
    window: int | None = None,
    control: str | None = "model",
    seed: int = 0,
) -> Attribution:
    """Where in an image a latent's value comes from.

    Integrated gradients (Sundararajan et al., 2017) follow the straight line from a baseline to the image; their sum is
    the difference of both values, up to what `steps` and jumps of the value leave open. Occlusion (Zeiler and Fergus,
    2014) hides one window after the other and needs no gradient. Both come from captum.

    Where an image has several rows, the one where the latent is strongest is looked at, and stays so. What is
    attributed there is by default the latent's pre-activation, where the dictionary has one: codes of TopK and JumpReLU
    jump where a latent comes in, and gradients do not see jumps.

    Beside the map stands that of a control (Adebayo et al., 2018, "Sanity checks for saliency maps").

    Args:
        model: any module that takes images.
        sae: a dictionary of the hook point's rows.
        image: [c, h, w] in [0, 1].
        latent: which.
        at: dotted name of the module; by default the one that the dictionary was trained on.
        method: `integrated-gradients` or `occlusion`.
        rows: what a row is, as it was captured.
        side: what the module gives, or its first input.
        of: `pre-activation` or `code`; by default the first that the dictionary has.
        baseline: `black`, `mean` (each channel's mean over the image), or an image of the same shape.
        steps: points on the line, of integrated gradients.
        window: side of the window in pixels, of occlusion; by default a seventh of the image's shorter side. It moves
            by half of it.
        control: `model` (all weights dealt out again within each tensor), `direction` (a random direction of the rows
            in place of the latent), or None.
        seed: decides the control.

    Raises:
        InputError: captum is not installed, an unknown name, an image of another form, rows of another width, or a
            code that gives no gradient.
    """
    _check(sae, image, latent, method=method, control=control, of=of)
    seen = _Seen(model, sae, at, rows, side)
    score, of = _score(sae, latent, of)
    position, code = seen.strongest(image, latent, score)
    look = _Look(method, _baseline(image, baseline), steps, window)
    differs = (image != look.baseline).any(0).cpu().numpy()
    found, value, start = look.at(seen, image, position, score)
    whole = value - start
    shares = method == "integrated-gradients" and abs(whole) > _ROUNDING * max(abs(value), abs(start))
    gap = abs(float(found.sum()) - whole) / abs(whole) if shares else float("nan")
    beside = None
    if control == "model":
        beside = look.at(_Seen(dealt_out_again(model, seed), sae, at, rows, side), image, position, score)[0]
    elif control == "direction":
        beside = look.at(seen, image, position, _random_direction(sae, seed))[0]
    return Attribution(
        map=found,
        value=value,
        baseline_value=start,
        code=code,
        of=of,
        position=position,
        method=method,
        gap=gap,
        control=beside,
        controlled=_CONTROLLED.get(control or "", ""),
        similarity=float("nan") if beside is None else map_similarity(found, beside, differs),
    )


def _check(sae: Dictionary, image: Tensor, latent: int, **named: str | None) -> None:
    """Check what needs neither model nor captum, and that captum is there."""
    known = {"method": METHODS, "control": (None, *CONTROLS), "of": (None, *TARGETS)}
    for name, given in named.items():
        if given not in known[name]:
            raise InputError(f"{name}={given!r}: {did_you_mean(str(given), [one for one in known[name] if one])}")
    if not 0 <= latent < sae.d_sae:
        raise InputError(f"there is no latent {latent}: the dictionary has {sae.d_sae}, counted from 0")
    if image.ndim != 3 or not image.is_floating_point():
        raise InputError(f"image must be floats [c, h, w] in [0, 1], got {image.dtype} {list(image.shape)}")
    needs("captum", extra="app", what="attribution")


def map_similarity(
    first: Float[np.ndarray, "h w"], second: Float[np.ndarray, "h w"], where: Bool[np.ndarray, "h w"]
) -> float:
    """Spearman's correlation of the sizes of two maps over some pixels.

    Give those where the image differs from the baseline: where nothing is there to be seen all maps are next to 0, and
    any two of them alike. NaN for fewer than three pixels, or a map that is the same on all of them.
    """
    sizes = np.abs(np.stack([first[where], second[where]]))
    if sizes.shape[1] < 3 or (sizes.min(1) == sizes.max(1)).any():
        return float("nan")
    return float(scipy.stats.spearmanr(*sizes).statistic)


@torch.no_grad()
def dealt_out_again(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model with each parameter's entries at random places: as large, and without what was learned."""
    other = copy.deepcopy(model)
    generator = torch_generator(seed, "weights dealt out again")
    for parameter in other.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def _score(sae: Dictionary, latent: int, of: str | None) -> tuple[Score, str]:
    """The latent's value as a function of rows, and what it is."""
    before: Any = getattr(sae, "pre_activations", None)
    if of == "pre-activation" and before is None:
        raise InputError(f"a {type(sae).__name__} has no pre-activations; attribute its codes, of='code'")
    if of == "code" or before is None:
        return lambda rows: sae.encode(rows)[:, latent], "code"
    return lambda rows: before(rows)[:, latent], "pre-activation"


def _random_direction(sae: Dictionary, seed: int) -> Score:
    drawn = torch.randn(sae.d_in, generator=torch_generator(seed, "random direction"))
    direction = (drawn / drawn.norm()).to(sae.directions())
    return lambda rows: rows @ direction


class _Seen:
    """A model up to its hook point: rows of images, with gradients."""

    def __init__(self, model: nn.Module, sae: Dictionary, at: str | None, rows: RowMeaning, side: Side) -> None:
        if at is None and not sae.hook_name:
            raise InputError("the dictionary does not know its hook point; name the module, at=...")
        self._model, self._sae, self._rows, self._side = model, sae, rows, side
        self._at = resolve_one(model, at or sae.hook_name)
        tensors = [*model.parameters(), *model.buffers()]
        self._like = next((one for one in tensors if one.is_floating_point()), torch.zeros(()))

    def rows(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b per_image d_in"]:
        """Rows of each image, in the dictionary's precision."""
        read: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            read.append(tensor.clone())  # a later module may write into it
            return tensor

        with evaluating(self._model), replacing(self._model, {self._at: keep}, side=self._side):
            self._model(images.to(self._like))
        found = to_rows(read[0], self._rows, examples=len(images), name=self._at, width=self._sae.d_in)
        if found.values.shape[1] != self._sae.d_in:
            raise InputError(
                f"{self._at!r} gives rows of width {found.values.shape[1]} with rows={self._rows!r}, the dictionary "
                f"takes {self._sae.d_in}: give the hook point and the meaning of rows that it was trained on"
            )
        values = found.values.to(self._sae.device, self._sae.directions().dtype)
        return values.view(len(images), found.per_example, -1)

    @torch.no_grad()
    def strongest(self, image: Float[Tensor, "c h w"], latent: int, score: Score) -> tuple[int, float]:
        """The row where the latent's code is largest (its score, where it is silent), and the code."""
        rows = self.rows(image[None])[0]
        codes = self._sae.encode(rows)[:, latent]
        fires = bool((codes != 0).any())
        position = int((codes if fires else score(rows)).argmax())
        return position, float(codes[position])


@dataclass(frozen=True)
class _Look:
    """A method with its settings."""

    method: str
    baseline: Tensor
    steps: int
    window: int | None

    def at(
        self, seen: _Seen, image: Tensor, position: int, score: Score
    ) -> tuple[Float32[np.ndarray, "h w"], float, float]:
        """The map, and the score on the image and on the baseline."""
        attr = needs("captum.attr", extra="app", what="attribution")
        start = self.baseline

        def forward(images: Tensor) -> Tensor:
            value = score(seen.rows(images)[:, position])
            if images.requires_grad and not value.requires_grad:
                raise InputError("this dictionary finds its codes without gradients; use method='occlusion'")
            return value

        with torch.no_grad():
            value, begin = forward(torch.stack([image, start])).tolist()
        if self.method == "integrated-gradients":
            with torch.enable_grad():
                made = attr.IntegratedGradients(forward).attribute(
                    image[None].detach(), start[None], n_steps=self.steps, internal_batch_size=_AT_ONCE
                )
            return made[0].sum(0).detach().cpu().float().numpy(), value, begin
        channels, *sides = image.shape
        size = self.window or max(1, min(sides) // 7)
        wide = tuple(min(size, side) for side in sides)
        step = tuple(max(1, side // 2) for side in wide)
        with torch.no_grad():
            made = attr.Occlusion(forward).attribute(
                image[None], (channels, *wide), (channels, *step), start[None], perturbations_per_eval=_AT_ONCE
            )
        return made[0, 0].cpu().float().numpy(), value, begin


def _baseline(image: Tensor, baseline: str | Tensor) -> Tensor:
    if isinstance(baseline, Tensor):
        if baseline.shape != image.shape:
            raise InputError(f"the baseline is {list(baseline.shape)}, the image {list(image.shape)}")
        return baseline.to(image)
    if baseline == "black":
        return torch.zeros_like(image)
    if baseline == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image).clone()
    raise InputError(f"baseline={baseline!r}: {did_you_mean(baseline, ('black', 'mean'))}; or give an image")
