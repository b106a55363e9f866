"""Whether a layer can be taken apart as it is asked for: seen on two examples, before hours are spent."""

import torch
from torch import nn

from unweave.capture import Capture
from unweave.capture.examples import ExampleStream
from unweave.capture.forward import Forward
from unweave.core.errors import InputError
from unweave.datasets.base import Dataset
from unweave.datasets.drawn import drawn
from unweave.models.hooks import resolve

_SHOWN = 2
_NAMED = 5


def probe(module: nn.Module, data: Dataset, what: Capture) -> None:
    """Ask the layer of a study for the rows of two examples.

    Args:
        module: the network; its weights may still be any.
        data: examples like those to come.
        what: the layer, and what its rows are.

    Raises:
        InputError: the layer is not named, there is none of that name or there are several, the forward pass does not
            call it exactly once, or it gives no such rows.
    """
    asked = what.at[0]
    if not asked:
        known = _listed([name for name, _ in module.named_modules() if name])
        raise InputError(f"--at is empty; name the layer, a module of the network: {known}")
    names = resolve(module, asked)
    if len(names) > 1:
        raise InputError(
            f"--at {asked!r} stands for {len(names)} modules ({_listed(names)}), and one layer is taken "
            f"apart at a time; name one of them: --at {names[0]}"
        )
    some = drawn(data, _SHOWN, 0)
    stream = ExampleStream(some, None, _SHOWN, None, tokenize=getattr(module, "tokenize", None))
    with torch.no_grad():
        Forward(module, what).rows(next(iter(stream)))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
