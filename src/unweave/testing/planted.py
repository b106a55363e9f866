"""Small planted data for the suites: `unweave.Planted` with as many features in each row, and the truth at hand."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from unweave.datasets.planted import Planted as PlantedConfig


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

    The simplest case of the data set `unweave.Planted`: which `l0` features a row has is drawn evenly, their
    coefficients evenly from 0.5 to 1.5. Two calls that differ in `n` alone share their directions.

    Args:
        n: rows.
        d_in: width of a row.
        n_features: true directions.
        l0: features in each row.
        noise: standard deviation of the noise, an entry; the directions have length 1.
        non_negative: rows and directions without negative entries.
        seed: decides everything drawn.

    Raises:
        InputError: a size below 1, more features a row than there are, or negative noise.
    """
    config = PlantedConfig(
        d_in=d_in, n_features=n_features, l0=l0, count="exact", exponent=0, noise=noise, non_negative=non_negative
    )
    made = config.make(n, seed=seed)
    assert made.directions is not None
    return Planted(made.rows, made.directions, made.sources)
