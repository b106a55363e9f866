"""What latents draw: their vectors through the pixel decoder, maps of both, and a picture for each class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unweave.core.seeds import derive_seed, numpy_generator, torch_generator
from unweave.figures.geometry import agreement, matrices
from unweave.figures.pictures import class_pictures, picture_grid, picture_maps, stretched
from unweave.metrics.geometry import cosine_similarities, entry_correlation
from unweave.models.pixel_decoder import PixelDecoder
from unweave.recipes.base import Run
from unweave.recipes.steering.importance import Importance
from unweave.recipes.steering.parts import Parts
from unweave.stats.mantel import Mantel, mantel
from unweave.stats.permutation import permutation_p

_PERPLEXITY = 3.0
_PERMUTATIONS = 9_999
_DRAWS = 20
_UNITS = 15
_FEWEST = 5
_UNTRAINED_DECODERS = 99
_LEVEL = 0.05
_TRAINED = "pictures"
_UNTRAINED = "pictures, untrained decoder"


@torch.no_grad()
def latent_vectors(parts: Parts) -> Float[Tensor, "d_sae d_in"]:
    """The mean over all held-out rows of what the dictionary decodes when only one latent is active.

    The decoder is linear, so it is what one decodes of the latent's mean value.
    """
    return parts.main.sae.decode(torch.diag(parts.main.codes.mean(0)))


def tell_pictures(parts: Parts, run: Run, found: Importance, *, most: int, each: int) -> None:
    """Show what every latent draws, and what a class's most important ones draw together."""
    vectors = latent_vectors(parts)
    pictures = parts.draw(vectors)
    order = found.top(-1, parts.main.sae.d_sae)
    chosen = selected(found, len(parts.names), each)
    run.section(
        "What does a latent draw?",
        "A latent's vector is what the dictionary decodes when it alone is active, with its own values, mean over all "
        "held-out rows; its picture is that vector through the pixel decoder.",
    )
    whose = f"Dictionary ρ = {parts.main.name}." if parts.main.kl else f"Dictionary {parts.main.name}."
    run.show(
        "latent_pictures",
        picture_grid(stretched(pictures[order]), [str(latent) for latent in order]),
        f"{whose} Every latent's picture, the most important one for all images first; contrast stretched to "
        "each picture's own range.",
    )
    maps = {"by vectors": embed(vectors, run.seed), "by pictures": embed(_flat(pictures), run.seed)}
    labels = [str(latent) for latent in range(len(vectors))]
    run.show(
        "latent_maps",
        picture_maps(maps, stretched(pictures), labels),
        f"t-SNE of cosine distances (perplexity {_PERPLEXITY:g}, started from principal components) between latents' "
        "vectors (left) and between their pictures (right), the picture at each point. The axes of one map are not "
        "those of the other.",
    )
    few = {"by vectors": embed(vectors[chosen], run.seed), "by pictures": embed(_flat(pictures[chosen]), run.seed)}
    run.show(
        "selected_maps",
        picture_maps(few, stretched(pictures[chosen]), [str(latent) for latent in chosen]),
        f"The same for the {len(chosen)} latents that are among the {each} most important of some class.",
    )
    _tell_classes(parts, run, found, most)


def selected(found: Importance, classes: int, each: int) -> list[int]:
    """The latents that are among the `each` most important of a class, each once, in the order of the classes.

    Where classes share them, so that fewer than five are left, more of each are taken.
    """
    chosen: list[int] = []
    while len(chosen) < min(_FEWEST, found.mse.shape[1]):
        chosen = list(dict.fromkeys(latent for c in range(classes) for latent in found.top(c, each)))
        each += 1
    return chosen


def embed(vectors: Float[Tensor, "k d"], seed: int) -> Float[np.ndarray, "k 2"]:
    """A map of vectors by t-SNE of their cosine distances.

    van der Maaten and Hinton (2008), "Visualizing data using t-SNE".
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415 - a second of imports that only a map needs

    settings = {"metric": "cosine", "init": "pca", "perplexity": min(_PERPLEXITY, (len(vectors) - 1) / 3)}
    map_of = TSNE(**settings, random_state=derive_seed(seed, "t-SNE") % 2**32)
    return np.asarray(map_of.fit_transform(vectors.double().numpy()), np.float64)


def _flat(pictures: Float[np.ndarray, "k c h w"]) -> Tensor:
    return torch.from_numpy(pictures).flatten(1)


@torch.no_grad()
def _tell_classes(parts: Parts, run: Run, found: Importance, most: int) -> None:
    """A picture for each class, under each way of making one."""
    classes = len(parts.names)
    keep = torch.zeros(classes, parts.main.sae.d_sae)
    for c in range(classes):
        keep[c, found.top(c, most)] = 1
    own, every = parts.class_means(parts.main.codes), parts.main.codes.mean(0)
    hidden = parts.class_means(parts.x)
    units = torch.zeros_like(hidden).scatter(1, hidden.topk(min(_UNITS, hidden.shape[1]), dim=1).indices, 1.0)
    decode = parts.main.sae.decode
    ways: dict[str, tuple[str, Tensor]] = {
        "": (f"its {most} latents, own mean", decode(keep * own)),
        "published": (f"its {most} latents, mean of all", decode(keep * every)),
        "class_mean": ("all latents, own mean", decode(own)),
        "neurons": (f"its {int(units[0].sum())} strongest units", units * hidden),
        "random": (f"{most} random latents", decode(_random_keep(keep, most, run.seed, 0) * own)),
    }
    drawn, read, by_pixels = {}, {}, {}
    for condition, (title, rows) in ways.items():
        drawn[title] = parts.draw(rows)
        read[title] = _read(parts, drawn[title])
        by_pixels[condition] = _nearest(parts, drawn[title])
        run.record({"class_pictures/read_by_model": int(read[title].sum())}, condition=condition)
        run.record({"class_pictures/nearest_class_mean": int(by_pixels[condition].sum())}, condition=condition)
    random = [decode(_random_keep(keep, most, run.seed, draw) * own) for draw in range(_DRAWS)]
    chance = [int(_read(parts, parts.draw(rows)).sum()) for rows in random]
    run.record({"class_pictures/read_by_model": float(np.mean(chance))}, condition="random")
    run.record({"class_pictures/classes": classes})
    run.section(
        "Do a class's latents draw the class?",
        "Codes are averaged, all latents but some set to zero, and the result goes through the dictionary's decoder "
        "and the pixel decoder. The model is then shown the picture.",
    )
    run.show(
        "class_pictures",
        class_pictures({"mean image": parts.mean_images.numpy(), **drawn}, read, parts.names),
        f"One picture for each class. Framed: the model reads it as that class. Over {_DRAWS} draws of {most} random "
        f"latents it reads {np.mean(chance):.1f} of {classes} ({min(chance)} to {max(chance)}).",
    )
    run.findings.append(_class_finding(run.metrics, classes, most))


def _random_keep(like: Tensor, most: int, seed: int, draw: int) -> Tensor:
    noise = torch.rand(like.shape, generator=torch_generator(seed, "random latents", draw))
    return torch.zeros_like(like).scatter(1, noise.topk(most, dim=1).indices, 1.0)


def _read(parts: Parts, pictures: Float[np.ndarray, "classes c h w"]) -> Bool[np.ndarray, " classes"]:
    """Whether the model names each picture's class."""
    device = next(parts.model.module.parameters()).device
    answers = parts.model.module(torch.from_numpy(pictures).to(device)).argmax(1).cpu()
    return np.asarray(answers == torch.arange(len(pictures)))


def _nearest(parts: Parts, pictures: Float[np.ndarray, "classes c h w"]) -> Bool[np.ndarray, " classes"]:
    """Whether each picture lies nearest to its own class's mean image."""
    distances = torch.cdist(_flat(pictures), parts.mean_images.flatten(1))
    return np.asarray(distances.argmin(1) == torch.arange(len(pictures)))


def _class_finding(metrics: Mapping[str, float], classes: int, most: int) -> str:
    read = {name: metrics[f"class_pictures/read_by_model{name}"] for name in ("", "@published", "@neurons", "@random")}
    line = (
        f"Of {classes} class pictures made of a class's {most} most important latents the model reads {read['']:.0f} "
        f"(with the mean code of all classes, as published, {read['@published']:.0f}); of {most} random latents "
        f"{read['@random']:.1f}."
    )
    if read["@neurons"] >= read[""]:
        return f"{line} But the {_UNITS} strongest raw units draw {read['@neurons']:.0f}: that needs no dictionary."
    return f"{line} The {_UNITS} strongest raw units draw {read['@neurons']:.0f}."


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the distances of latents' vectors agree with those of their pictures.

    Attributes:
        test: correlation of the upper triangles, and Mantel's test of it.
        full_r: correlation of all entries, as published.
        untrained: correlation of the upper triangles through each untrained decoder.
        untrained_full: of all entries.
    """

    test: Mantel
    full_r: float
    untrained: Float[np.ndarray, " draws"]
    untrained_full: Float[np.ndarray, " draws"]

    @property
    def beyond_untrained(self) -> float:
        """Share of untrained decoders, this one among them, through which the agreement is as large."""
        return permutation_p(self.test.r, self.untrained)


def tell_geometry(parts: Parts, run: Run, found: Importance, *, each: int) -> None:
    """Ask whether latents that are alike draw alike pictures, and whether that was learned."""
    chosen = selected(found, len(parts.names), each)
    vectors = latent_vectors(parts)[chosen]
    near = cosine_similarities(vectors)
    pictures = cosine_similarities(_flat(parts.draw(vectors)))
    controls = [cosine_similarities(one) for one in _untrained_pictures(parts, vectors, run.seed)]
    upper = np.triu_indices(len(chosen), 1)
    distances = (1 - near).numpy()[upper]
    generator = numpy_generator(run.seed, "mantel")
    agree = Agreement(
        test=mantel((1 - near).numpy(), (1 - pictures).numpy(), permutations=_PERMUTATIONS, generator=generator),
        full_r=entry_correlation(1 - near, 1 - pictures),
        untrained=np.array([np.corrcoef(distances, (1 - one).numpy()[upper])[0, 1] for one in controls]),
        untrained_full=np.array([entry_correlation(1 - near, 1 - one) for one in controls]),
    )
    run.record(
        {
            "geometry/latents": len(chosen),
            "geometry/full_r": agree.full_r,
            "geometry/upper_r": agree.test.r,
            "geometry/mantel_p": agree.test.p,
            "geometry/beyond_untrained_p": agree.beyond_untrained,
        }
    )
    means = {"geometry/full_r": agree.untrained_full.mean(), "geometry/upper_r": agree.untrained.mean()}
    run.record({name: float(value) for name, value in means.items()}, condition="untrained_decoder")
    _show_geometry(run, chosen, agree, {"vectors": near, _TRAINED: pictures, _UNTRAINED: controls[0]})
    run.findings.append(_geometry_finding(agree, len(chosen)))


@torch.no_grad()
def _untrained_pictures(parts: Parts, vectors: Tensor, seed: int) -> Iterator[Float[Tensor, "k pixels"]]:
    """What decoders as they are before training draw of vectors."""
    trained = parts.decoder.module
    for draw in range(_UNTRAINED_DECODERS):
        generator = torch_generator(seed, "untrained decoder", draw)
        yield PixelDecoder(trained.d_in, trained.shape, generator)(vectors).flatten(1)


def _show_geometry(run: Run, chosen: Sequence[int], agree: Agreement, near: Mapping[str, Tensor]) -> None:
    run.section(
        "Do latents that are alike draw alike?",
        f"Cosine distances between the {len(chosen)} selected latents' vectors, against those between their pictures. "
        "The control is a pixel decoder that was never trained.",
    )
    labels = [str(latent) for latent in chosen]
    run.show(
        "geometry_matrices",
        matrices({name: (1 - one).numpy() for name, one in near.items()}, labels),
        "Cosine distance of each two selected latents, in the order of the classes that they matter to; each matrix on "
        "its own scale.",
    )
    low, high = np.percentile(agree.untrained, [2.5, 97.5])
    notes = {
        _TRAINED: f"r = {agree.test.r:.2f}, Mantel p = {agree.test.p:.2g}\nall entries r = {agree.full_r:.2f}",
        _UNTRAINED: f"r = {agree.untrained[0]:.2f}; {_UNTRAINED_DECODERS} of them: {low:.2f} to {high:.2f}\n"
        f"all entries r = {agree.untrained_full[0]:.2f}",
    }
    pairs = {name: (1 - one).numpy()[np.triu_indices(len(chosen), 1)] for name, one in near.items()}
    run.show(
        "geometry_agreement",
        agreement(pairs.pop("vectors"), pairs, notes, axis_names=("distance of vectors", "distance of pictures")),
        f"Each pair once. p: Mantel test, {_PERMUTATIONS:,} permutations. The range of untrained decoders holds 95 % "
        "of them. 'All entries' counts the diagonal, and each pair twice, as published.",
    )


def _geometry_finding(agree: Agreement, latents: int) -> str:
    p = agree.beyond_untrained
    said = (
        f"The two geometries of {latents} latents correlate with r = {agree.test.r:.2f} (upper triangle, Mantel p = "
        f"{agree.test.p:.2g}; counted as published, {agree.full_r:.2f}); through untrained decoders with r = "
        f"{agree.untrained.mean():.2f} on average ({agree.untrained_full.mean():.2f})"
    )
    if p > _LEVEL:
        return f"{said}: a linear map preserves geometry, and the agreement says nothing about what was learned."
    return f"{said}: what exceeds them (p = {p:.2g}) was learned."
