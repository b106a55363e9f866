"""The recipe `instances`: which pixels do units and latents look at, and do these lie in one place?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from unweave.core.progress import progress
from unweave.core.seeds import numpy_generator
from unweave.dictionaries.base import Dictionary
from unweave.figures.attention import attention_maps, localised
from unweave.metrics.localisation import dealt_again, localisation, smallest_set
from unweave.models.hooks import only_tensor
from unweave.recipes.base import Run
from unweave.recipes.instances.dictionaries import Latents
from unweave.recipes.instances.networks import Instances, Material
from unweave.stats.effects import cliffs_delta, rank_biserial
from unweave.stats.permutation import Alternative, difference_p, permutation_p

_SHOWN = 12
_TITLES = {
    "components": ("Connected parts", "parts of the half-mass set"),
    "largest": ("Share of the largest part", "share of the set's mass"),
    "entropy": ("Spatial entropy", "bits over a 4 × 4 grid"),
}
# A map that is gathered in one place has fewer parts, a larger share in its largest, and less entropy.
_GATHERED: Mapping[str, Alternative] = {"components": "less", "largest": "greater", "entropy": "less"}


@dataclass(frozen=True, eq=False)
class Maps:
    """Mean input gradients of units or latents [m, c, h, w], times each pixel's standard deviation: signed maps."""

    gradients: Float[np.ndarray, "m c h w"]
    deviation: Float[np.ndarray, "c h w"]

    @property
    def signed(self) -> Float[np.ndarray, "m h w"]:
        """Over the channels' sum."""
        return np.asarray((self.gradients * self.deviation).sum(1))

    @property
    def mass(self) -> Float[np.ndarray, "m h w"]:
        """Absolute values, summed over channels."""
        return np.asarray(np.abs(self.gradients * self.deviation).sum(1))

    def dealt(self, generator: np.random.Generator) -> "Maps":
        """The same gradients at other pixels, each map's dealt out again among the pixels that vary."""
        m, c, h, w = self.gradients.shape
        flat = dealt_again(self.gradients.reshape(m, c * h, w), (self.deviation > 0).reshape(c * h, w), generator)
        return Maps(flat.reshape(m, c, h, w), self.deviation)

    def of(self, chosen: np.ndarray) -> "Maps":
        """Some of them."""
        return Maps(self.gradients[chosen], self.deviation)


def input_gradients(
    module: nn.Module, at: str, images: Float[Tensor, "n c h w"], dictionary: Dictionary | None = None
) -> tuple[Float[np.ndarray, "m c h w"], Float64[np.ndarray, " m"]]:
    """Gradient of each unit, or each latent of a dictionary, with respect to the image, mean over images.

    A latent's mean is over the images on which it is active: elsewhere it has no gradient.

    Returns:
        The gradients, and on how many images each unit or latent is not 0.
    """
    read: list[Tensor] = []
    hook = module.get_submodule(at).register_forward_hook(
        lambda _module, _inputs, out: read.append(only_tensor(out, at))
    )
    pixels = images.to(next(module.parameters()).device).requires_grad_()
    try:
        with torch.enable_grad():
            module(pixels)
    finally:
        hook.remove()
    with torch.enable_grad():
        rows = read[0].flatten(1)
        values = rows if dictionary is None else dictionary.encode(rows)
        active = (values != 0).sum(0)
        sums = []
        for unit in range(values.shape[1]):
            (gradient,) = torch.autograd.grad(values[:, unit].sum(), pixels, retain_graph=True)
            sums.append(gradient.sum(0) / max(int(active[unit]), 1))
    return torch.stack(sums).cpu().double().numpy(), active.cpu().double().numpy()


def attention(config: Instances, run: Run, material: Material, latents: Latents) -> None:
    """Measure the maps of all units and live latents of all instances beside their nulls, and write the section."""
    maps = _all_maps(config, run, material, latents)
    generator = numpy_generator(run.seed, "dealt again")
    measured = {name: localisation(one.mass).measures() for name, one in maps.items()}
    nulls: dict[str, list[dict[str, np.ndarray]]] = {}
    with progress("Dealing gradients out again", total=2 * config.dealings, unit="dealings") as bar:
        for name in ("units", "latents"):
            for _ in range(config.dealings):
                nulls.setdefault(name, []).append(localisation(maps[name].dealt(generator).mass).measures())
                bar.advance()
    rows = []
    for measure in _GATHERED:
        rows += _beside_null(run, measure, measured, nulls)
        rows.append(_against_units(run, measure, measured))
        for name in ("untrained units", "untrained latents"):
            run.record(
                {f"attention/{measure}": float(measured[name][measure].mean())}, condition=name.replace(" ", "_")
            )
    _tell(config, run, material, maps, measured, nulls, rows)


def _all_maps(config: Instances, run: Run, material: Material, latents: Latents) -> dict[str, Maps]:
    """Signed maps of units and of live latents, of trained and of untrained networks, all instances together."""
    pixels = material.test.pixels(torch.arange(config.judged_images)).float() / 255
    deviation = pixels.std(0).double().numpy()
    found: dict[str, list[np.ndarray]] = {}
    kinds = (("", "trained", "dictionary"), ("untrained ", "untrained", "untrained"))
    first = latents.fitted["dictionary"][material.networks[0].name].dictionary
    flops = 2.0 * pixels.numel() * first.d_in  # of one unit's gradients
    total = 4 * len(material.networks)
    with run.runtime.threads_for(flops), progress("Input gradients", total=total, unit="sets of maps") as bar:
        for network in material.networks:
            for prefix, condition, kind in kinds:
                fitted = latents.fitted[kind][network.name].dictionary
                for name, dictionary in (("units", None), ("latents", fitted)):
                    gradients, active = input_gradients(network.module(condition), config.layers[0], pixels, dictionary)
                    seen = (active > 0) & ((np.abs(gradients) * deviation).sum((1, 2, 3)) > 0)
                    found.setdefault(f"{prefix}{name}", []).append(gradients[seen])
                    bar.advance()
    return {name: Maps(np.concatenate(parts), deviation) for name, parts in found.items()}


def _beside_null(
    run: Run,
    measure: str,
    measured: Mapping[str, Mapping[str, np.ndarray]],
    nulls: Mapping[str, list[dict[str, np.ndarray]]],
) -> list[list[str]]:
    """Units and latents against their own gradients at other pixels."""
    rows = []
    for name in ("units", "latents"):
        ours = measured[name][measure]
        dealt = np.stack([one[measure] for one in nulls[name]])
        p = permutation_p(float(ours.mean()), dealt.mean(1), _GATHERED[measure])
        effect = rank_biserial(ours, dealt.mean(0))
        suffix = "" if name == "latents" else "@neurons"
        run.record({f"attention/{measure}{suffix}": float(ours.mean()), f"attention/{measure}_p{suffix}": p})
        run.record({f"attention/{measure}_effect{suffix}": effect})
        run.record({f"attention/{measure}@{name}_dealt": float(dealt.mean())})
        what = f"{name} against their gradients dealt out again"
        rows.append(
            [_TITLES[measure][0], what, f"{ours.mean():.2f}", f"{dealt.mean():.2f}", f"{effect:+.2f}", f"{p:.2g}"]
        )
    return rows


def _against_units(run: Run, measure: str, measured: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Latents against units."""
    latents, units = measured["latents"][measure], measured["units"][measure]
    generator = numpy_generator(run.seed, "latents against units", measure)
    p = difference_p(latents, units, permutations=1999, generator=generator)
    effect = cliffs_delta(latents, units)
    run.record(
        {f"attention/{measure}_latents_against_units": effect, f"attention/{measure}_latents_against_units_p": p}
    )
    what = "latents against units"
    return [_TITLES[measure][0], what, f"{latents.mean():.2f}", f"{units.mean():.2f}", f"{effect:+.2f}", f"{p:.2g}"]


def _tell(
    config: Instances,
    run: Run,
    material: Material,
    maps: Mapping[str, Maps],
    measured: Mapping[str, Mapping[str, np.ndarray]],
    nulls: Mapping[str, list[dict[str, np.ndarray]]],
    rows: list[list[str]],
) -> None:
    run.section(
        "What do they look at?",
        f"The mean gradient of each unit and latent of {config.names[0]} with respect to the image, times each pixel's "
        f"standard deviation, over {config.judged_images:,} test images: which pixels move it. The smallest set of "
        "pixels with half of that mass may be one place, or many.",
    )
    generator = numpy_generator(run.seed, "maps shown")
    shown: dict[str, Maps] = {}
    for name, title in (("units", "raw units"), ("latents", "latents"), ("untrained units", "untrained\nunits")):
        n = len(maps[name].gradients)
        shown[title] = maps[name].of(np.sort(generator.choice(n, min(_SHOWN, n), replace=False)))
    shown["latents,\ndealt out\nagain"] = shown["latents"].dealt(generator)
    signed = {title: one.signed for title, one in shown.items()}
    outlines = {title: np.stack([smallest_set(mass) for mass in one.mass]) for title, one in shown.items()}
    notes = {title: [_parts(mass) for mass in one.mass] for title, one in shown.items()}
    caption = (
        "Maps drawn at random: blue where more ink raises the unit or latent, orange where it lowers it; the line runs "
        "around the smallest set of pixels with half of the mass, whose connected parts are counted below. Last row: "
        "the latents' gradients dealt out again among the pixels that vary."
    )
    run.show("attention", attention_maps(signed, outlines=outlines, notes=notes), caption)
    boxes = {
        measure: {
            **{name: measured[name][measure] for name in ("units", "latents", "untrained units", "untrained latents")},
            **{
                f"{name}, null": np.stack([one[measure] for one in nulls[name]]).ravel()
                for name in ("units", "latents")
            },
        }
        for measure in _GATHERED
    }
    count = {name: len(one.gradients) for name, one in maps.items()}
    caption = (
        f"{count['units']} units and {count['latents']} live latents of {len(material.networks)} networks: connected "
        "parts of the smallest set of pixels with half of the mass, share of that set's mass in its largest part, and "
        "entropy of all mass over 16 cells. Null: the same gradients dealt out again among the pixels that vary."
    )
    run.show("localisation", localised(boxes, titles=_TITLES), caption)
    note = (
        f"Effects from −1 to 1: matched-pairs rank-biserial against the null ({config.dealings} dealings, one-sided p "
        "that maps are more gathered), Cliff's delta against units (two-sided permutation p over the units of all "
        "networks; those of one network are not independent)."
    )
    run.table(["measure", "", "mean", "against", "effect", "p"], rows, note=note, main=2)


def _parts(mass: np.ndarray) -> str:
    count = int(localisation(mass[None]).components[0])
    return "1 part" if count == 1 else f"{count} parts"


def attention_findings(run: Run, *, dealings: int) -> list[str]:
    """Whether what is looked at lies in one place, and whether latents are more local than units."""
    of = run.metrics
    said = []
    for words, suffix, null in (("Raw units", "@neurons", "units"), ("Latents", "", "latents")):
        parts, p = of[f"attention/components{suffix}"], of[f"attention/components_p{suffix}"]
        beyond = "fewer than" if p <= max(0.05, 1 / (dealings + 1)) else "no fewer than"
        said.append(
            f"{words} look at {parts:.1f} connected patches of pixels on average, {beyond} the "
            f"{of[f'attention/components@{null}_dealt']:.1f} of the same gradients dealt out at random (p {p:.2g})"
        )
    untrained = of["attention/components@untrained_units"]
    if untrained <= of["attention/components@neurons"]:
        said[0] += f"; but units of untrained networks, whose weights are noise, have {untrained:.1f}"
    effect, p = (of[f"attention/components_latents_against_units{end}"] for end in ("", "_p"))
    if p > 0.05:
        verdict = "no difference between latents and units is shown"
    else:
        verdict = f"latents have {'fewer' if effect < 0 else 'more'} patches than units"
    return [f"{said[0]}. {said[1]}; {verdict} (Cliff's delta {effect:+.2f}, p {p:.2g})."]
