"""Small planted data: rows of which the true directions are known."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator


@dataclass(frozen=True, eq=False)
class Planted:
    """Rows x = codes · directions + noise, and what they were made of.

    Attributes:
        rows: the data.
        directions: the true directions, of length 1.
        codes: how much of each direction lies in each row; exactly `l0` entries of a row are not zero.
    """

    rows: Float[Tensor, "n d_in"]
    directions: Float[Tensor, "n_features d_in"]
    codes: Float[Tensor, "n n_features"]

    def cosines(self, directions: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, " n_features"]:
        """Of each true direction, the largest cosine with any of the directions found; 1 is found, signs count."""
        return (self.directions @ normalize(directions.detach().float().cpu(), dim=1).T).amax(1)


def planted(
    n: int,
    *,
    d_in: int = 16,
    n_features: int = 24,
    l0: int = 3,
    noise: float = 0.02,
    non_negative: bool = False,
    seed: int = 0,
) -> Planted:
    """Rows that are sums of a few out of many directions: x = Σ_j c_j v_j + noise·ε.

    Which `l0` features a row has is drawn evenly, their coefficients evenly from 0.5 to 1.5, ε from a standard normal.
    Directions are drawn evenly from the sphere. More features than `d_in` is the case that sparse dictionaries are for
    and an orthogonal set cannot solve. Two calls that differ in `n` alone share their directions.

    Args:
        n: rows.
        d_in: width of a row.
        n_features: true directions.
        l0: features in each row.
        noise: standard deviation of the noise, an entry; the directions have length 1.
        non_negative: rows and directions without negative entries. Directions are then |g|³, normalised, for a
            Gaussian g: a few large entries each, mean cosine 0.17 in high dimensions. Noise that would make an entry
            negative is cut off there.
        seed: decides everything drawn.

    Raises:
        InputError: a size below 1, more features a row than there are, or negative noise.
    """
    if min(n, d_in, n_features) < 1:
        raise InputError(f"n, d_in and n_features must be at least 1, got {n}, {d_in} and {n_features}")
    if not 1 <= l0 <= n_features:
        raise InputError(f"l0 must lie between 1 and n_features ({n_features}), got {l0}")
    if not 0 <= noise < float("inf"):
        raise InputError(f"noise must be at least 0, got {noise}")
    drawn = torch.randn(n_features, d_in, generator=torch_generator(seed, "planted directions"))
    directions = normalize(drawn.abs() ** 3 if non_negative else drawn, dim=1)
    generator = torch_generator(seed, "planted rows")
    active = torch.rand(n, n_features, generator=generator).topk(l0, dim=1).indices
    strength = 0.5 + torch.rand(n, l0, generator=generator)
    codes = torch.zeros(n, n_features).scatter(1, active, strength)
    rows = codes @ directions + noise * torch.randn(n, d_in, generator=generator)
    return Planted(rows.relu() if non_negative else rows, directions, codes)
