"""From batches of examples to the rows of hook points, which stay where the model is."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unweave.capture.config import Capture
from unweave.capture.examples import Batch
from unweave.capture.failures import with_examples
from unweave.capture.places import Layouts
from unweave.core.errors import InputError
from unweave.models.hooks import HookPoints, resolve
from unweave.models.rows import Rows, to_rows
from unweave.store.activations import DTYPES

_TURNS: "WeakKeyDictionary[nn.Module, threading.Lock]" = WeakKeyDictionary()
_TURNS_CHANGE = threading.Lock()


class Forward:
    """Forward passes of a model that give the rows of its hook points.

    Hooks sit in the model, so two threads that read it at once would meet in them: passes over one model take turns,
    whoever runs them.

    Attributes:
        config: what is captured.
        names: the hook points.
        device: where the model and its rows are.
        examples: how many went through the model so far.
        layouts: how the rows of each hook point lie in an example, as far as batches have shown it.
    """

    def __init__(self, model: nn.Module, config: Capture) -> None:
        self.names = resolve(model, config.at)
        self.device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        self.examples = 0
        self._model, self.config = model, config
        self._points: dict[tuple[str, ...], HookPoints] = {}
        self.layouts = Layouts(model, config.rows, config.layout, config.prefix)
        self._widths: dict[str, int] = {}
        with _TURNS_CHANGE:
            self._turn = _TURNS.setdefault(model, threading.Lock())

    def rows(self, batch: Batch, names: Sequence[str] | None = None) -> Mapping[str, Rows]:
        """Rows of each hook point, in the configured precision.

        Args:
            batch: the examples.
            names: the hook points that are wanted; all of them by default.

        Raises:
            InputError: NaN or Inf, a tensor that has no such rows, or rows of another width than those before.
        """
        config = self.config
        _check_normalisation(batch, config)
        inputs = [_ready(value, config, self.device) for value in batch.inputs]
        keywords = {key: _ready(value, config, self.device) for key, value in batch.keywords.items()}
        chosen, found = tuple(names or self.names), {}
        with self._turn:
            if chosen not in self._points:  # kept: once it knows them, a pass stops after the last hook point
                self._points[chosen] = HookPoints(self._model, list(chosen), side=config.side)
            with with_examples(batch):
                tensors = self._points[chosen].read(*inputs, **keywords)
            for name, tensor in tensors.items():
                layout = self.layouts.of(name, tensor, inputs, keywords)
                rows = to_rows(
                    tensor, config.rows, examples=len(batch.example), name=name, layout=layout, mask=batch.mask
                )
                found[name] = rows._replace(values=rows.values.to(DTYPES[config.dtype]))
            self.examples += len(batch.example)
        for name, rows in found.items():
            _check_width(self._widths, name, rows.values.shape[1])
            _refuse_not_finite(rows, batch, name, config.dtype)
        return found


def _refuse_not_finite(rows: Rows, batch: Batch, name: str, dtype: str) -> None:
    values = rows.values
    if bool(torch.isfinite(values.sum())) or bool((finite := torch.isfinite(values).all(1)).all()):
        return
    row = int((~finite).nonzero()[0])
    raise InputError(
        f"{name!r} gives NaN or Inf ({dtype}) for {int((~finite).sum())} rows of a batch, first for example "
        f"{int(batch.example[rows.example[row]])}; check the model, its inputs, or use float32"
    )


def _check_width(widths: dict[str, int], name: str, width: int) -> None:
    """Refuse rows of another width than the first of their hook point."""
    if widths.setdefault(name, width) != width:
        raise InputError(
            f"{name!r} gives rows of width {width} after rows of width {widths[name]}; inputs of several sizes need "
            "rows='pool', 'position' or 'cls'"
        )


def _ready(value: Any, config: Capture, device: torch.device) -> Any:
    """An input on the model's device, normalised if it is an image and the configuration says so."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device, non_blocking=True)
    if value.is_floating_point() and (config.mean or config.std):
        mean = _per_channel(config.mean or (0.0,), value, "mean")
        return (value - mean) / _per_channel(config.std or (1.0,), value, "std")
    return value


def _per_channel(numbers: tuple[float, ...], images: Tensor, what: str) -> Tensor:
    if len(numbers) > 1 and (images.ndim < 2 or images.shape[1] != len(numbers)):
        raise InputError(
            f"{what} has {len(numbers)} numbers for inputs {list(images.shape)}: give one, or one a channel"
        )
    shape = (-1, *[1] * max(images.ndim - 2, 0))
    return torch.tensor(numbers, dtype=images.dtype, device=images.device).view(shape)


def _check_normalisation(batch: Batch, config: Capture) -> None:
    values = [value for value in (*batch.inputs, *batch.keywords.values()) if isinstance(value, Tensor)]
    if (config.mean or config.std) and not any(value.is_floating_point() for value in values):
        raise InputError("mean and std are for floats; turn the images into floats in [0, 1] first (images / 255)")
