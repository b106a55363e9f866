"""Sparse codes: what a dictionary says of rows, kept as the active entries only."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of `n` rows over `d_sae` latents in compressed-row form; memory follows the number of active entries.

    The entries of row i are `latent[offsets[i]:offsets[i+1]]` (increasing) and `value[...]` (never zero).
    """

    offsets: Int64[np.ndarray, " n_plus_1"]
    latent: Int32[np.ndarray, " nnz"]
    value: Float32[np.ndarray, " nnz"]
    d_sae: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def nnz(self) -> int:
        """Number of active entries."""
        return len(self.latent)

    def row(self) -> Int32[np.ndarray, " nnz"]:
        """Row of each entry."""
        return np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.offsets))

    def dense(self) -> Float32[Tensor, "n d_sae"]:
        """The codes as a dense tensor: for tests and small examples."""
        out = torch.zeros(self.n, self.d_sae)
        out[torch.from_numpy(self.row()).long(), torch.from_numpy(self.latent).long()] = torch.from_numpy(self.value)
        return out

    @staticmethod
    def from_dense(codes: Float[Tensor, "n d_sae"]) -> "Codes":
        """Keep the non-zero entries of dense codes."""
        codes = codes.float()  # first: what is zero in float32 is not active
        row, latent = codes.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(codes)).cpu().numpy()
        value = codes[row, latent].cpu().numpy()
        return Codes(_offsets(counts), latent.to(torch.int32).cpu().numpy(), value, codes.shape[1])

    @staticmethod
    def concatenate(parts: Iterable["Codes"], d_sae: int) -> "Codes":
        """Rows of all parts, in order."""
        kept = list(parts)
        counts = [np.diff(part.offsets) for part in kept]
        return Codes(
            _offsets(np.concatenate(counts) if counts else np.zeros(0, np.int64)),
            np.concatenate([part.latent for part in kept] or [np.zeros(0, np.int32)]),
            np.concatenate([part.value for part in kept] or [np.zeros(0, np.float32)]),
            d_sae,
        )


def _offsets(counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_plus_1"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
