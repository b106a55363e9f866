"""What the recipe `mixtures` compares: dictionaries and controls as signals, and how well those match the sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unweave.core.progress import silenced
from unweave.core.seeds import numpy_generator, torch_generator
from unweave.datasets.rows import KnownRows
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.ica import ICA
from unweave.dictionaries.nmf import NMF
from unweave.dictionaries.pca import PCA
from unweave.metrics.recovery import FOUND_AT, Matching, correlations, match, precision
from unweave.store.rows import TensorRows
from unweave.train import train

_VARIES = 1e-4  # of the strongest latent's spread: below it, a latent is as good as constant


@dataclass(frozen=True, eq=False)
class Scored:
    """Signals of one kind, repetition by repetition, and how they match the sources.

    Attributes:
        signals: codes, or what stands in their place.
        similarity: |r| of every source with every signal.
        weight: how much of what is reconstructed each signal carries: its variance times the squared length of its
            direction, normalised to sum 1.
    """

    signals: list[Float[np.ndarray, "n _"]]
    similarity: list[Float[np.ndarray, "n_sources _"]]
    weight: list[Float[np.ndarray, " _"]]

    @cached_property
    def matchings(self) -> list[Matching]:
        """Sources and signals matched one to one."""
        return [match(similarity) for similarity in self.similarity]

    @cached_property
    def matched(self) -> Float[np.ndarray, "repeats n_sources"]:
        """|r| of each source with the signal that it is matched with."""
        return np.array([matching.score for matching in self.matchings])

    @cached_property
    def best(self) -> Float[np.ndarray, "repeats n_sources"]:
        """Largest |r| of each source with any signal."""
        return np.array([similarity.max(1) for similarity in self.similarity])

    def metrics(self) -> dict[str, float]:
        """Means over the repetitions: see docs/explanation/recovery.md."""
        count = self.matched.shape[1]
        numbers = {f"recovery/s{j + 1}": float(self.matched[:, j].mean()) for j in range(count)}
        numbers |= {f"recovery/best_s{j + 1}": float(self.best[:, j].mean()) for j in range(count)}
        if len(self.signals) > 1:
            numbers |= {f"recovery/s{j + 1}_std": float(self.matched[:, j].std(ddof=1)) for j in range(count)}
            numbers["recovery/matched_mean_std"] = float(self.matched.mean(1).std(ddof=1))
        pairs = list(zip(self.similarity, self.weight, strict=True))
        left = [float(w[m.unmatched].sum()) for m, w in zip(self.matchings, self.weight, strict=True)]
        return {
            **numbers,
            "recovery/matched_mean": float(self.matched.mean()),
            "recovery/precision": float(np.mean([precision(s, _varies(w), at=FOUND_AT) for s, w in pairs])),
            "recovery/latents": float(np.mean([len(w) for w in self.weight])),
            "recovery/unmatched": float(np.mean([len(m.unmatched) for m in self.matchings])),
            "recovery/unmatched_weight": float(np.mean(left)),
        }


def _varies(weight: Float[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    return np.asarray(weight > _VARIES**2 * weight.max())


def scored(
    sources: Float[np.ndarray, "n n_sources"],
    signals: Sequence[Float[np.ndarray, "n _"]],
    directions: Sequence[Float[np.ndarray, "_ d_in"] | None],
) -> Scored:
    """Score signals; a direction that is None has the length 1 for every signal."""
    weights = []
    for one, direction in zip(signals, directions, strict=True):
        length = 1.0 if direction is None else (direction.astype(np.float64) ** 2).sum(1)
        carried = one.astype(np.float64).var(0) * length
        weights.append(carried / max(float(carried.sum()), 1e-300))
    return Scored(list(signals), [correlations(sources, one) for one in signals], weights)


def untrained(config: DictionaryConfig, rows: Float[Tensor, "n d_in"], seed: int) -> Dictionary:
    """The dictionary that training with this seed starts from."""
    dictionary = config.build(rows.shape[1])
    dictionary.prepare(TensorRows(rows), torch_generator(seed, "dictionary"))
    return dictionary.to_inference()


@torch.no_grad()
def codes_of(dictionary: Dictionary, rows: Float[Tensor, "n d_in"]) -> Float[np.ndarray, "n d_sae"]:
    """Codes of rows, wherever the dictionary lies."""
    return np.asarray(dictionary.encode(rows.to(dictionary.device)).cpu().numpy())


def of_dictionaries(sources: np.ndarray, dictionaries: Sequence[Dictionary], rows: Float[Tensor, "n d_in"]) -> Scored:
    """Dictionaries of the same rows, scored by their codes."""
    directions = [dictionary.directions().cpu().numpy() for dictionary in dictionaries]
    return scored(sources, [codes_of(dictionary, rows) for dictionary in dictionaries], directions)


def classical(data: KnownRows, judged: KnownRows, seeds: Sequence[int]) -> Mapping[str, list[Float[np.ndarray, "n m"]]]:
    """Signals of ICA, PCA and NMF with as many components as sources, fitted under each seed.

    A component is one signal that has both signs, so its two one-sided latents are joined again. NMF is left out where
    a row has a negative entry.
    """
    n = min(data.sources.shape[1], data.rows.shape[1])
    found: dict[str, list[np.ndarray]] = {"ica": [], "pca": []}
    non_negative = bool((data.rows >= 0).all() and (judged.rows >= 0).all())
    if non_negative:
        found["nmf"] = []
    with silenced():
        for number, seed in enumerate(seeds):
            kinds: dict[str, DictionaryConfig] = {"ica": ICA(n_components=n)}
            if number == 0:  # nothing in it is drawn
                kinds["pca"] = PCA()
            for name, config in kinds.items():
                codes = codes_of(train(data.rows, config, seed=seed), judged.rows)
                half = codes.shape[1] // 2
                found[name].append((codes[:, :half] - codes[:, half:])[:, :n])
            if non_negative:
                found["nmf"].append(codes_of(train(data.rows, NMF(d_sae=n), seed=seed), judged.rows))
    return found


def shifted(signals: Sequence[Float[np.ndarray, "n m"]], seed: int) -> list[Float[np.ndarray, "n m"]]:
    """The same signals, each turned round in time by a lag of its own: as smooth and as periodic, but out of step."""
    turned = []
    for number, one in enumerate(signals):
        generator = numpy_generator(seed, "lags", number)
        turned.append(np.column_stack([np.roll(column, int(generator.integers(len(one)))) for column in one.T]))
    return turned


def noise(n: int, m: int, repeats: int, seed: int) -> list[Float[np.ndarray, "n m"]]:
    """As many independent signals that know nothing of the sources."""
    return [numpy_generator(seed, "noise", number).standard_normal((n, m)) for number in range(repeats)]


def information(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"], *, bins: int = 32) -> float:
    """Mutual information of two signals in bits, each cut into bins of equal width; biased upwards by few rows."""
    table = np.histogram2d(one, other, bins=bins)[0] / len(one)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    ratio = np.divide(table, expected, out=np.ones_like(table), where=table > 0)
    return float((table * np.log2(ratio)).sum())
