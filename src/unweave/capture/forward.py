"""From batches of examples to the rows of hook points, which stay where the model is."""

import threading
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unweave.capture.examples import Batch
from unweave.capture.failures import with_examples
from unweave.capture.places import Layouts
from unweave.capture.stage import Capture, _check_normalisation, _check_width, _ready
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
        names: the hook points.
        device: where the model and its rows are.
        examples: how many went through the model so far.
    """

    def __init__(self, model: nn.Module, config: Capture) -> None:
        self.names = resolve(model, config.at)
        self.device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        self.examples = 0
        self._model, self._config = model, config
        self._points: dict[tuple[str, ...], HookPoints] = {}
        self._layouts = Layouts(model, config.rows, config.layout, config.prefix)
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
        config = self._config
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
                layout = self._layouts.of(name, tensor, inputs, keywords)
                rows = to_rows(
                    tensor, config.rows, examples=len(batch.example), name=name, layout=layout, mask=batch.mask
                )
                found[name] = rows._replace(values=rows.values.to(DTYPES[config.dtype]))
            self.examples += len(batch.example)
        for name, rows in found.items():
            _check_width(self._widths, name, rows.values.shape[1])
            _refuse_not_finite(rows.values, name, batch)
        return found


def _refuse_not_finite(rows: Tensor, name: str, batch: Batch) -> None:
    if bool(torch.isfinite(rows.sum())) or bool((finite := torch.isfinite(rows).all(1)).all()):
        return
    first, last = int(batch.example.min()), int(batch.example.max())
    raise InputError(
        f"{name!r} gives NaN or Inf for {int((~finite).sum())} rows of a batch (examples {first} to {last}); check the "
        "model, its inputs, or use float32"
    )
