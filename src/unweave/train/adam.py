"""Adam over a dictionary's parameters."""

from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from unweave.core.distributed import ALONE, Ranks
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.kernels import Kernels, Moving


class Adam:
    """Adam (Kingma & Ba, 2015) that keeps the rows at length 1 which the dictionary names in `unit_rows`."""

    def __init__(self, dictionary: Dictionary, betas: tuple[float, float], kernels: Kernels) -> None:
        self.steps = 0
        self._parameters = dict(dictionary.named_parameters())
        self._moments = {
            name: (torch.zeros_like(parameter), torch.zeros_like(parameter))
            for name, parameter in self._parameters.items()
        }
        self._rows = {
            name: (_rows(parameter.detach()), *map(_rows, self._moments[name]))
            for name, parameter in self._parameters.items()
        }
        self._unit = dictionary.unit_rows()
        self._d_sae = dictionary.d_sae
        self._betas = betas
        self._kernels = kernels

    @torch.no_grad()
    def clip(self, most: float, latents: Ranks = ALONE) -> None:
        """Bring the norm of the whole gradient, without what lies along unit rows, down to `most`.

        Args:
            most: the largest norm.
            latents: the processes over which latents are split; all have the same gradient of b_dec.
        """
        for name in self._unit:
            weight, gradient = self._parameters[name], self._parameters[name].grad
            assert gradient is not None
            gradient.sub_((gradient * weight).sum(1, keepdim=True) * weight)
        if latents.size == 1:
            nn.utils.clip_grad_norm_(self._parameters.values(), most)
            return
        squares = {name: p.grad.square().sum() for name, p in self._parameters.items() if p.grad is not None}
        shared = squares.pop("b_dec")
        own = torch.stack(list(squares.values())).sum()
        latents.sum(own)
        nn.utils.clip_grads_with_norm_(self._parameters.values(), most, (own + shared).sqrt())

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters along their gradients."""
        self.steps += 1
        moving = [
            Moving(weight, _rows(gradient), first, second, rate * self._unit.get(name, 1.0), name in self._unit)
            for name, (weight, first, second) in self._rows.items()
            if (gradient := self._parameters[name].grad) is not None
        ]
        self._kernels.adam(moving, step=self.steps, betas=self._betas)

    @torch.no_grad()
    def forget(self, latents: Int64[Tensor, " latents"]) -> None:
        """Set the moments of latents to zero."""
        for name, moments in self._moments.items():
            axis = 1 if name == "W_enc" else 0
            if name != "b_dec" and moments[0].shape[axis] == self._d_sae:  # what belongs to latents
                for moment in moments:
                    moment.index_fill_(axis, latents, 0.0)

    def state(self) -> dict[str, Tensor]:
        """The moments, by name."""
        kinds = ("first", "second")
        return {
            f"{name}.{kind}": m for name, pair in self._moments.items() for kind, m in zip(kinds, pair, strict=True)
        }

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take up what `state` gave."""
        self.steps = steps
        for name, moment in self.state().items():
            moment.copy_(state[name])


def _rows(tensor: Tensor) -> Tensor:
    """A parameter as contiguous rows: what lies transposed the other way round, one number or one row as a matrix."""
    if tensor.ndim != 2:
        return tensor.view(1, -1)
    return tensor if tensor.is_contiguous() else tensor.T
