"""Do the dictionaries of two instances hold the same latents?"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.core.progress import progress
from unweave.core.seeds import numpy_generator
from unweave.metrics.similarity_latents import CodePair
from unweave.stats.permutation import permutation_p
from unweave.store.artifact import Identity, existing, writing
from unweave.store.files import load_tensors, save_tensors

KIND = "replication"
THRESHOLDS = np.linspace(0, 1, 101)
_FILE = "replication.safetensors"


@dataclass(frozen=True, eq=False)
class Replication:
    """How many latents of one dictionary another one holds too, for each pair of dictionaries.

    A pair's latents are matched one to one by the correlation of their codes on half of the rows; what counts is the
    correlation on the other half.

    Attributes:
        shares: share of both dictionaries' live latents with r ≥ threshold, thresholds 0, 0.01, … 1.
        mean: mean r of the live latents, 0 for one without a partner.
        null_shares: the same with one dictionary's rows shuffled, mean over the permutations; NaN without any.
        null_mean: likewise.
        p: of the mean r among the shuffled ones; 1 without permutations.
        live: mean number of live latents of the two.
    """

    shares: Float64[np.ndarray, "pairs t"]
    mean: Float64[np.ndarray, " pairs"]
    null_shares: Float64[np.ndarray, "pairs t"]
    null_mean: Float64[np.ndarray, " pairs"]
    p: Float64[np.ndarray, " pairs"]
    live: Float64[np.ndarray, " pairs"]

    def share(self, least: float, *, null: bool = False) -> float:
        """Share of latents with r of at least so much (in hundredths), mean over pairs."""
        return float((self.null_shares if null else self.shares)[:, round(100 * least)].mean())


def compare_codes(
    codes: Mapping[str, Codes], *, permutations: int = 0, seed: int = 0, out: str | Path | None = None
) -> Replication:
    """Match the latents of every pair of dictionaries by their codes on the same rows.

    Args:
        codes: of the same held-out rows, by instance.
        permutations: of one dictionary's rows, behind each p-value; 0 for none.
        seed: decides the halves and the permutations.
        out: folder of the artifact; one that is there is read back.

    Raises:
        InputError: there are fewer than two dictionaries, or their codes are not of the same rows.
    """
    if len(codes) < 2:
        raise InputError(f"latents are compared between at least two dictionaries, got {len(codes)}")
    if out is None:
        return _replication(codes, permutations, seed)
    arrays = {name: (one.offsets, one.latent, one.value) for name, one in codes.items()}
    inputs = {name: hash_tensor(*map(torch.from_numpy, values)) for name, values in arrays.items()}
    identity = Identity(kind=KIND, config={"permutations": permutations}, inputs=inputs, seed=seed)
    if not existing(Path(out), identity):
        found = _replication(codes, permutations, seed)
        with writing(Path(out), identity) as draft:
            values = {field.name: torch.from_numpy(getattr(found, field.name)) for field in fields(found)}
            save_tensors(draft.folder / _FILE, values)
    return Replication(**{name: values.numpy() for name, values in load_tensors(Path(out) / _FILE).items()})


def _replication(codes: Mapping[str, Codes], permutations: int, seed: int) -> Replication:
    n = next(iter(codes.values())).n
    choose, measure = np.array_split(numpy_generator(seed, "halves").permutation(n), 2)
    pairs = list(itertools.combinations(codes, 2))
    rows: list[dict[str, np.ndarray | float]] = []
    with progress("Matching latents", total=len(pairs), unit="pairs") as bar:
        for a, b in pairs:
            pair = CodePair(codes[a], codes[b], choose=choose, measure=measure)
            generator = numpy_generator(seed, "orders", a, b)
            found = pair.matched()
            null = [pair.matched(generator) for _ in range(permutations)]
            means = np.array([one.mean for one in null])
            shares = [one.share(THRESHOLDS) for one in null]
            rows.append(
                {
                    "shares": found.share(THRESHOLDS),
                    "mean": found.mean,
                    "null_shares": np.mean(shares, 0) if null else np.full(len(THRESHOLDS), np.nan),
                    "null_mean": float(means.mean()) if null else float("nan"),
                    "p": permutation_p(found.mean, means),
                    "live": sum(found.sizes) / 2,
                }
            )
            bar.advance()
    return Replication(**{name: np.array([row[name] for row in rows]) for name in rows[0]})
