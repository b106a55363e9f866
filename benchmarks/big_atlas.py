"""A whole run folder of the size that the app has to bear: many latents, many images, made in a minute or two.

Rows are sums of a dictionary's own directions, which it finds again, if not all of them. Directions come in
families that resemble each other, latents fire with frequencies that fall as a power of their number, families prefer a
class, and an image shows a blot for each of its strongest latents: everything a page shows has something to show.

    python -m benchmarks.big_atlas runs/big
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unweave.analyze import Analysis, analyze
from unweave.capture import capture
from unweave.core.seeds import numpy_generator, torch_generator
from unweave.datasets.base import MemoryImages
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.recipes.base import Run, carry_out

_CLASSES = 10
_FAMILY = 16
_BLOTS = 6


@dataclass(frozen=True)
class Plan:
    """How big."""

    d_sae: int = 16_384
    d_in: int = 768
    rows: int = 60_000
    l0: int = 32
    side: int = 32
    permutations: int = 99
    seed: int = 0


def build(folder: Path, plan: Plan) -> Run:
    """A run folder with activations@test, sae and atlas; a finished one is read back."""
    run = Run(folder, plan.seed)
    description = {"recipe": "big-atlas", "config": asdict(plan), "seed": plan.seed}
    carry_out(run, description, lambda run: _work(run, plan))
    return run


def _work(run: Run, plan: Plan) -> None:
    which, value, label = planted_codes(plan)
    sae = planted_dictionary(plan)
    rows = torch.nn.functional.embedding_bag(which, sae.W_dec, per_sample_weights=value, mode="sum")
    store = capture(
        torch.nn.Sequential(torch.nn.Identity()),
        rows,
        at="0",
        labels=label,
        class_names=[f"class {c}" for c in range(_CLASSES)],
        dtype="float16",
        batch_size=2048,
        out=run.place("activations@test"),
    )
    sae.hook_name = "0"
    sae.save(run.place("sae"))
    images = MemoryImages(pictures(which, value, label, plan), label, store.class_names or [])
    settings = Analysis(permutations=plan.permutations)
    atlas = analyze(sae, store, images=images, analysis=settings, seed=plan.seed, out=run.place("atlas"))
    run.record(atlas.metrics)
    run.findings.append(f"{plan.d_sae:,} latents on {plan.rows:,} rows, made to be large: nothing here was learned.")


def planted_codes(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """For each row `l0` latents and values [rows, l0], and a class that its families prefer."""
    generator = numpy_generator(plan.seed, "codes")
    label = generator.integers(0, _CLASSES, plan.rows)
    odds = np.arange(1, plan.d_sae // _FAMILY + 1) ** -0.4
    drawn = generator.choice(len(odds), (plan.rows, plan.l0), p=odds / odds.sum())
    own = generator.random((plan.rows, plan.l0)) < 0.5  # half of them from families of the row's class
    family = np.where(own, drawn - drawn % _CLASSES + label[:, None], drawn) % len(odds)
    which = family * _FAMILY + generator.integers(0, _FAMILY, family.shape)
    value = generator.gamma(16.0, 0.2, family.shape).astype(np.float32)
    return torch.from_numpy(which), torch.from_numpy(value), torch.from_numpy(label)


def planted_dictionary(plan: Plan) -> TopKSAE:
    """Unit directions, `_FAMILY` around each of many random ones; the encoder is their transpose."""
    generator = torch_generator(plan.seed, "directions")
    centres = torch.randn(plan.d_sae // _FAMILY, 1, plan.d_in, generator=generator)
    own = torch.randn(plan.d_sae // _FAMILY, _FAMILY, plan.d_in, generator=generator)
    sae = TopK(d_sae=plan.d_sae, k=plan.l0).build(plan.d_in)
    with torch.no_grad():
        sae.W_dec.copy_(normalize(own + 0.4 * centres, dim=2).flatten(0, 1))
        sae.W_enc.copy_(sae.W_dec.T)
    frozen = sae.to_inference()
    assert isinstance(frozen, TopKSAE)
    return frozen


def pictures(which: Tensor, value: Tensor, label: Tensor, plan: Plan) -> Tensor:
    """Images [rows, 3, side, side]: a ground in the class's colour, a square for each of a row's strongest latents."""
    generator = torch_generator(plan.seed, "pictures")
    ground = torch.randint(20, 90, (_CLASSES, 3), generator=generator, dtype=torch.uint8)
    colour = torch.randint(90, 256, (plan.d_sae // _FAMILY, 3), generator=generator, dtype=torch.uint8)
    images = ground[label][:, :, None, None].repeat(1, 1, plan.side, plan.side)
    size = max(1, plan.side // 5)
    strongest = which.gather(1, value.topk(min(_BLOTS, plan.l0), dim=1).indices)
    row = torch.arange(plan.rows)
    for latent in strongest.unbind(1):  # the place says which of the family it is, the colour which family
        left = latent % 4 * plan.side // 4
        top = latent // 4 % 4 * plan.side // 4
        for dy in range(size):
            for dx in range(size):
                images[row, :, top + dy, left + dx] = colour[latent // _FAMILY]
    return images


def main() -> None:
    """Build it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    given = vars(parser.parse_args())
    run = build(given.pop("folder"), Plan(**given))
    print(f"{run.folder}: {run.metrics['dictionary/live']:,.0f} live latents")


if __name__ == "__main__":
    main()
