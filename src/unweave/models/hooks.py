"""Hook points: reading what modules of a network give or take, in one forward pass that stops when all is read."""

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unweave.core.errors import InputError, did_you_mean

Side = Literal["output", "input"]
HIDDEN = "last_hidden_state"


class _AllReadError(BaseException):
    """Ends a forward pass once every hook point has been read; no model's `except Exception` holds it up."""


def resolve(model: nn.Module, at: str | Sequence[str]) -> list[str]:
    """Names of the modules that names and globs (`layer*.conv1`) stand for, in the model's order.

    A glob's `*` stands for any letters, dots too. Modules that only hold others (`ModuleList`) have no value and are
    reached by no glob.

    Raises:
        InputError: a name or glob stands for nothing (the message gives the closest names), it lies inside a scripted
            module, which runs outside of Python, or the model has parameters without values.
    """
    _check_values(model)
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
    _check_reached(model, chosen)
    return [name for name, _ in model.named_modules() if name in chosen]


def _check_values(model: nn.Module) -> None:
    """Refuse parameters and buffers that are shapes alone: nothing can be computed of them."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise InputError(f"{name!r} has no shape before the first pass (a lazy module): call the model once first")
        if value.is_meta:
            raise InputError(f"{name!r} is on the meta device, so it has no values: load the model's weights first")


def _check_reached(model: nn.Module, chosen: Collection[str]) -> None:
    scripted = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    for name in chosen:
        if any(outer in ("", name) or name.startswith(f"{outer}.") for outer in scripted):
            raise InputError(
                f"{name!r} is a scripted module (torch.jit), or a part of one: these run outside of Python and cannot "
                "be read; use the module that it was made of"
            )


def _has_forward(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return True
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
    """The tensor of a module's value.

    It is the value itself, `last_hidden_state` of a model output, the first of a tuple, or the only one of a mapping;
    members that are such values themselves are looked into.

    Raises:
        InputError: there is none.
    """
    inner = value
    while not isinstance(inner, Tensor):
        key = member_of(inner)
        if key is None:
            what = f"a {type(value).__name__}"
            if isinstance(inner, Mapping) and inner:
                what += f" of {', '.join(map(str, inner))}"
            raise InputError(f"the module {name!r} gives {what}, not a tensor; hook a module inside it")
        inner = getattr(inner, key) if key == HIDDEN and hasattr(inner, key) else inner[key]
    return inner


def member_of(value: Any) -> Any:
    """Name, index or key of the member that `only_tensor` looks into; None where there is none."""
    if isinstance(getattr(value, HIDDEN, None), Tensor):
        return HIDDEN
    if isinstance(value, (tuple, list)):
        return 0 if value else None
    if isinstance(value, Mapping):
        tensors = [key for key, member in value.items() if isinstance(member, Tensor)]
        return tensors[0] if len(tensors) == 1 else None
    return None


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
