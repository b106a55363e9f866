"""What moving latents does: one at several doses, to picture and answer; a class's own set taken out of the model."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from unweave.core.seeds import numpy_generator
from unweave.recipes.base import Run
from unweave.recipes.steering.importance import Importance
from unweave.recipes.steering.parts import Parts
from unweave.steer import steer
from unweave.steer.response import Effect
from unweave.steer.stage import dose_response

_DRAWS = 5


def tell_moves(parts: Parts, run: Run, found: Importance, *, latents: int, most: int) -> None:
    """Move the classes' most important latents one by one, and take out a class's most important ones."""
    by_rank = zip(*(found.top(c, latents) for c in range(len(parts.names))), strict=True)
    chosen = list(dict.fromkeys(latent for ranked in by_rank for latent in ranked))[:latents]
    run.section(
        "What does moving a latent do?",
        "A latent is set to several multiples of its largest value on the held-out images, at the model's own hidden "
        "layer: the changed activation goes to the pixel decoder, and through the rest of the network to the answer. "
        "What the dictionary misses stays as it was. The control moves activations as far along random directions.",
    )
    response = dose_response(
        parts.model.module,
        parts.main.sae,
        parts.some,
        at=parts.at,
        latents=chosen,
        decoder=parts.decoder.module,
        seed=run.seed,
        out=run.place("steering"),
    )
    effects = response.strongest()
    run.table(
        ["latent", "moves most", "change of its logit", "95 % band", "random directions", "beyond them"],
        [_effect_row(effect) for effect in effects],
        note=(
            f"At the dose that moves activations furthest; means over {response.n:,} held-out images with bootstrap "
            "bands over images, and the middle 95 % of what random directions do to the same logit."
        ),
        main=2,
    )
    for latent in chosen:
        run.show(
            f"dose_{latent}",
            response.figure(latent),
            f"Latent {latent} of ρ = {parts.main.name}: means over {response.n:,} held-out images with 95 % bootstrap "
            "bands over images. Grey: the middle 95 % of moves as far along random directions. Below: mean pictures.",
        )
    beyond = sum(effect.beyond for effect in effects)
    run.record({"steering/latents": len(effects), "steering/beyond_random": beyond})
    run.findings.append(
        f"Moved to twice its largest value, {beyond} of {len(effects)} latents change a logit beyond what moves of the "
        f"same length along random directions do; most of all latent {effects[0].latent}, the logit of "
        f"{effects[0].class_name} by {effects[0].change:+.1f} (random: {effects[0].control[0]:+.1f} to "
        f"{effects[0].control[1]:+.1f})."
    )
    _tell_taken_out(parts, run, found, max(1, most // 3))


def _effect_row(effect: Effect) -> list[str]:
    return [
        str(effect.latent),
        effect.class_name,
        f"{effect.change:+.2f}",
        f"{effect.band[0]:+.2f} to {effect.band[1]:+.2f}",
        f"{effect.control[0]:+.2f} to {effect.control[1]:+.2f}",
        "yes" if effect.beyond else "no",
    ]


def _tell_taken_out(parts: Parts, run: Run, found: Importance, count: int) -> None:
    """Take a class's most important latents out of the model, and see which classes suffer."""
    d_sae, classes = parts.main.sae.d_sae, len(parts.names)
    count = min(count, d_sae)
    whole = _accuracies(parts, [])
    without = np.stack([_accuracies(parts, found.top(c, count)) for c in range(classes)])
    generator = numpy_generator(run.seed, "random latents to take out")
    drawn = [generator.permutation(d_sae)[:count].tolist() for _ in range(_DRAWS)]
    random = np.stack([_accuracies(parts, latents) for latents in drawn])
    own = np.diag(without)
    others = np.array([np.delete(without[c], c).mean() for c in range(classes)])
    run.record({"taken_out/own": float(own.mean()), "taken_out/others": float(others.mean())})
    run.record({"taken_out/own": float(random.mean())}, condition="random")
    run.record({"taken_out/own": float(whole.mean())}, condition="whole")
    run.section(
        "Does the model need a class's latents for that class?",
        f"The {count} latents that matter most to a class's reconstruction are taken out of the model's hidden layer "
        "while it classifies.",
    )
    run.table(
        ["class", "model as it is", "its latents taken out", "other classes then", f"{count} random latents taken out"],
        [
            [name, *(f"{100 * value:.1f} %" for value in (whole[c], own[c], others[c], random[:, c].mean()))]
            for c, name in enumerate(parts.names)
        ],
        note=f"Accuracy on the class's images of {len(parts.some):,} held-out ones; random: mean over {_DRAWS} draws.",
        main=2,
    )
    run.findings.append(
        f"With a class's {count} most important latents taken out, the model's accuracy on that class is "
        f"{100 * own.mean():.0f} % on average and on the others {100 * others.mean():.0f} % (as it is "
        f"{100 * whole.mean():.0f} %; {count} random latents taken out {100 * random.mean():.0f} %)."
    )


def _accuracies(parts: Parts, latents: Sequence[int]) -> Float[np.ndarray, " classes"]:
    """The model's accuracy on each class with some latents taken out."""
    edits = dict.fromkeys(latents, "ablate")
    with steer(parts.model.module, parts.main.sae, at=parts.at, edits=edits):
        right = parts.predictions(parts.some) == parts.some.labels
    counts = torch.bincount(parts.some.labels, minlength=len(parts.names))
    return np.asarray(torch.bincount(parts.some.labels[right], minlength=len(parts.names)) / counts, np.float64)
