"""What the classical methods share: options of the fit, a bounded sample of rows, and what is logged of it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from warnings import catch_warnings, simplefilter

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.store.rows import Moments, MomentSums, RowSource

_CHUNK = 4096
_ROUNDING = 1e-12  # of the rows' mean square: a variance below it is their rounding


@dataclass(frozen=True, kw_only=True)
class ClassicalConfig(DictionaryConfig):
    """Options that every method has that is fitted to a sample of rows."""

    fit_rows: int = 65_536
    "rows that the fit sees at most, drawn from the whole source; all of them where there are no more"
    max_iter: int = 200
    "iterations that the fit may take; it stops earlier once it has settled"

    def __post_init__(self) -> None:
        if self.fit_rows < 1:
            raise InputError(f"fit_rows must be at least 1, got {self.fit_rows}")
        if self.max_iter < 1:
            raise InputError(f"max_iter must be at least 1, got {self.max_iter}")


def finite_moments(dictionary: Dictionary, rows: RowSource) -> Moments:
    """Moments of rows that the dictionary can be fitted to.

    Raises:
        InputError: the rows are of another width, or not all finite.
    """
    if rows.d_in != dictionary.d_in:
        raise InputError(f"the dictionary takes rows of width {dictionary.d_in}, the data has {rows.d_in}")
    moments = rows.moments()
    if not math.isfinite(moments.variance):
        raise InputError("the rows hold NaN or Inf; look for them in the activations")
    return moments


def sample_rows(rows: RowSource, most: int, generator: torch.Generator) -> Float[Tensor, "n d_in"]:
    """At most so many rows: all of them in order, or as many drawn from the source's own shuffled order.

    That order takes blocks from all over the source, so nothing beyond its first windows is read or held.
    """
    if rows.n <= most:
        return torch.cat([block.cpu() for block in rows.blocks(_CHUNK)])
    seed = int(torch.randint(2**62, (), generator=generator))
    taken: list[Tensor] = []
    left = most
    for batch in rows.batches(min(_CHUNK, most), seed=seed, epoch=0):
        taken.append(batch[:left].cpu())
        left -= len(taken[-1])
        if not left:
            break
    return torch.cat(taken)


def numpy_seed(generator: torch.Generator) -> int:
    """A seed for a library that takes none of torch's generators."""
    return int(torch.randint(2**31 - 1, (), generator=generator))


@contextmanager
def settling_is_logged() -> Iterator[None]:
    """Keep scikit-learn from warning that a fit has not settled: the number of iterations is logged and says it."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - a second of imports that only a fit needs

    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)
        yield


def explained_variance(error: float, moments: Moments) -> float:
    """1 − mean ‖x − x̂‖² / variance, as the history has it: 0 where rows are the same to rounding."""
    return 1 - error / moments.variance if moments.variance > _ROUNDING * moments.mean_square_norm else 0.0


@torch.no_grad()
def log_fit(dictionary: Dictionary, sample: Float[Tensor, "n d_in"], iterations: int) -> None:
    """Leave one line in the history: how many iterations the fit took, and how it does on the rows it saw.

    A `step` that equals the configured `max_iter` says that the fit was stopped before it had settled.
    """
    sums = MomentSums(dictionary.d_in)
    error, fired = 0.0, torch.zeros(dictionary.d_sae, dtype=torch.int64)
    for chunk in sample.split(_CHUNK):
        on_device = chunk.to(dictionary.device)
        codes = dictionary.encode(on_device)
        error += float((chunk - dictionary.reconstruct(codes, on_device).cpu()).double().square().sum())
        sums.add(chunk)
        fired += (codes != 0).sum(0).cpu()
    loss = error / len(sample)
    dictionary.history = {
        "step": [float(iterations)],
        "loss": [loss],
        "explained_variance": [explained_variance(loss, sums.moments())],
        "l0": [float(fired.sum()) / len(sample)],
        "dead": [float((fired == 0).sum())],
    }
