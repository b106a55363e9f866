"""A dictionary of rows that are normalised one by one."""

import dataclasses
from collections.abc import Callable
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError, did_you_mean
from unweave.dictionaries.base import Dictionary, RowNorm
from unweave.dictionaries.exchange import Exchange
from unweave.store.rows import RowSource

_EPS = 1e-5


class NormalisedRows(Dictionary):
    """f = encode(z) and x̂ = s·decode(f) + m of another dictionary, for rows x = s·z + m with m and s of their own.

    - `layer_norm`: m is the mean of a row's entries and s their standard deviation (with d_in − 1); the encoder sees
      z = (x − m) / (s + 1e-5), as in OpenAI's sparse_autoencoder (Gao et al., 2024), SAELens and ViT-Prisma.
    - `constant_norm_rescale`: m = 0 and s = ‖x‖ / √d_in, so that every z has the length √d_in; zeros stay zeros.

    It is made of a dictionary that is trained already, and has that one's configuration: dictionaries of other
    libraries are of this kind. None is trained here.

    Attributes:
        of: the dictionary of the rows z.
    """

    trained_by_gradient = False

    def __init__(self, of: Dictionary, row_norm: RowNorm) -> None:
        """Wrap a dictionary.

        Args:
            of: of normalised rows.
            row_norm: how rows are normalised.

        Raises:
            InputError: there is no such way, rows of one entry have no standard deviation, or `of` is wrapped already.
        """
        super().__init__(of.config, of.d_in, of.d_sae)
        known = get_args(RowNorm)
        if row_norm not in known:
            raise InputError(f"there is no row_norm {row_norm!r}: {did_you_mean(str(row_norm), known)}")
        if row_norm == "layer_norm" and of.d_in == 1:
            raise InputError("layer_norm divides by the standard deviation of a row's entries; one entry has none")
        if of.row_norm is not None:
            raise InputError(f"the dictionary normalises its rows already, by {of.row_norm}")
        self.of = of
        self.row_norm = row_norm
        self.hook_name, self.history, self.origin = of.hook_name, of.history, of.origin

    def normalised(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_in"]:
        """The rows z that the encoder sees."""
        centred, _, scale = self._parts(x)
        spread = scale + _EPS if self.row_norm == "layer_norm" else scale
        return centred / torch.where(spread > 0, spread, 1.0)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows x: x − m, m and s."""
        centre = self.row_norm == "layer_norm"
        mean = x.mean(-1, keepdim=True) if centre else x.new_zeros(())
        centred = x - mean
        return centred, mean, centred.norm(dim=-1, keepdim=True) / (self.d_in - centre) ** 0.5

    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """There is nothing to fit.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a dictionary of rows that are normalised one by one is read from files, not trained; train one on a hook "
            "point whose rows are normalised, say the model's own layer norm"
        )

    @property
    def pre_activations(self) -> Callable[[Float[Tensor, "*b d_in"]], Float[Tensor, "*b d_sae"]]:
        """Pre-activations of rows, where the dictionary within has them."""
        before: Callable[[Tensor], Tensor] = self.of.pre_activations  # type: ignore[assignment]
        return lambda rows: before(self.normalised(rows))

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""
        return self.of.encode(self.normalised(x))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Refused: codes do not say what a row's own numbers are.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"this dictionary normalises each row by numbers of its own ({self.row_norm}), so codes alone are no rows: "
            "use reconstruct(codes, rows) with the rows that they are of"
        )

    def reconstruct(self, codes: Float[Tensor, "*b d_sae"], rows: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_in"]:
        """What codes stand for in the rows that they are of: s·decode(f) + m."""
        _, mean, scale = self._parts(rows)
        return self.of.decode(codes) * scale + mean

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row whose scale s is 1."""
        return self.of.directions()

    def scales(self, rows: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b 1"]:
        """The s of each row."""
        return self._parts(rows)[2]

    def saelens(self) -> Exchange | None:
        """The words of the dictionary within, with what is done to rows."""
        exchange = self.of.saelens()
        return None if exchange is None else dataclasses.replace(exchange, row_norm=str(self.row_norm))

    def tensors(self) -> dict[str, Tensor]:
        """The state of the dictionary within."""
        return self.of.tensors()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.of!r}, {self.row_norm!r})"
