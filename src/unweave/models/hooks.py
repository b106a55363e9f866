"""Hook points: reading what modules of a network give or take, in one forward pass that stops when all is read."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unweave.core.errors import InputError, did_you_mean

Side = Literal["output", "input"]


class _AllReadError(BaseException):
    """Ends a forward pass once every hook point has been read; no model's `except Exception` holds it up."""


def resolve(model: nn.Module, at: str | Sequence[str]) -> list[str]:
    """Names of the modules that names and globs (`layer*.conv1`) stand for, in the model's order.

    A glob's `*` stands for any letters, dots too. Modules that only hold others (`ModuleList`) have no value and are
    reached by no glob.

    Raises:
        InputError: a name or glob stands for nothing; the message gives the closest names.
    """
    names = [name for name, _ in model.named_modules() if name]
    callable_names = [name for name, part in model.named_modules() if name and _has_forward(part)]
    chosen: set[str] = set()
    for pattern in [at] if isinstance(at, str) else at:
        matches = [name for name in callable_names if fnmatch.fnmatchcase(name, pattern)]
        if not matches and (pattern == "" or pattern in names):
            matches = [pattern]
        if not matches:
            where = f"{type(model).__name__} has no module {pattern!r}"
            raise InputError(f"{where}: {did_you_mean(pattern, names)}")
        chosen.update(matches)
    if not chosen:
        raise InputError("at names no hook point; give a module's dotted name or a glob")
    return [name for name, _ in model.named_modules() if name in chosen]


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


class HookPoints:
    """Reads the tensors at hook points.

    A module that a forward pass calls more than once has no single value and is refused; the first pass runs to its end
    to find that out, later ones stop after the last hook point.
    """

    def __init__(self, model: nn.Module, at: str | Sequence[str], *, side: Side = "output") -> None:
        self.model = model
        self.names = resolve(model, at)
        self.side = side
        self._read: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._checked = False

    def read(self, *inputs: Any, **keywords: Any) -> Mapping[str, Tensor]:
        """Run the model on one batch and give each hook point's tensor, detached.

        Raises:
            InputError: a hook point was not reached, was called more than once, or holds no tensor.
        """
        self._read, self._calls = {}, dict.fromkeys(self.names, 0)
        with torch.no_grad(), evaluating(self.model), self._attached(), suppress(_AllReadError):
            self.model(*inputs, **keywords)
        self._check_calls()
        return self._read

    def _check_calls(self) -> None:
        for name, calls in self._calls.items():
            if calls == 0:
                raise InputError(
                    f"the forward pass never calls the module {name!r}; choose another hook point or a narrower glob"
                )
            if calls > 1:
                raise InputError(
                    f"the forward pass calls the module {name!r} {calls} times, so it has no single value; "
                    "hook the modules before or after it"
                )
        self._checked = True

    @contextmanager
    def _attached(self) -> Iterator[None]:
        modules = dict(self.model.named_modules())
        handles = []
        try:
            for name in self.names:
                if self.side == "output":
                    handles.append(modules[name].register_forward_hook(self._after(name)))
                else:
                    handles.append(modules[name].register_forward_pre_hook(self._before(name), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._keep(name, output)

        return hook

    def _before(self, name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self._keep(name, inputs[0] if inputs else next(iter(keywords.values()), None))

        return hook

    def _keep(self, name: str, value: Any) -> None:
        self._calls[name] += 1
        if self._calls[name] > 1:
            return
        tensor = only_tensor(value, name).detach()
        ends = self._checked and len(self._read) + 1 == len(self.names)
        self._read[name] = tensor if ends else tensor.clone()  # a later in-place module may write into it
        if ends:
            raise _AllReadError


def only_tensor(value: Any, name: str) -> Tensor:
    """The tensor of a module's value: itself, the first of a tuple, or `last_hidden_state` of a model output.

    Raises:
        InputError: there is none.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(getattr(value, "last_hidden_state", None), Tensor):
        return value.last_hidden_state  # type: ignore[no-any-return]
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return value[0]
    raise InputError(f"the module {name!r} gives a {type(value).__name__}, not a tensor; hook a module inside it")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
