"""Replacing what modules of a network give or take."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.models.hooks import HIDDEN, Side, member_of, only_tensor, resolve

Change = Callable[[Tensor], Tensor]


@contextmanager
def replacing(model: nn.Module, changes: Mapping[str, Change], *, side: Side = "output") -> Iterator[None]:
    """Inside the block, what modules give (or take) is a function of what it was.

    Of a tuple or model output the tensor that `only_tensor` reads is replaced, its other members stay. Gradients flow
    through the function. Afterwards the model is as it was, whatever happened inside; its other hooks, its mode and
    its parameters are never touched. Blocks may be nested, at the same module too: the inner one sees what the outer
    one made. A module that is called outside of a pass of the whole model is served as well.

    Args:
        model: any module.
        changes: dotted names of modules, and for each the function of its tensor. What returns the same object changes
            nothing.
        side: what the module gives, or its first input.

    Raises:
        InputError: on entry, an unknown name; inside, a pass of the model that calls one of the modules never or more
            than once, or a value without a tensor.
    """
    modules = dict(model.named_modules())
    named = {resolve_one(model, at): change for at, change in changes.items()}
    passes = _Passes(list(named))
    with ExitStack() as stack:

        def attach(handle: Any) -> None:
            stack.callback(handle.remove)

        attach(model.register_forward_pre_hook(passes.begin))
        for name, change in named.items():
            if side == "output":
                attach(modules[name].register_forward_hook(_changed_output(name, change, passes)))
            else:
                attach(modules[name].register_forward_pre_hook(_changed_input(name, change, passes), with_kwargs=True))
        attach(model.register_forward_hook(passes.check))
        attach(model.register_forward_hook(passes.end, always_call=True))
        yield


def resolve_one(model: nn.Module, at: str) -> str:
    """The module that a name or glob stands for.

    Raises:
        InputError: it stands for none, or for several.
    """
    names = resolve(model, at)
    if len(names) > 1:
        raise InputError(f"{at!r} stands for {len(names)} modules ({', '.join(names[:4])}, …); give one name")
    return names[0]


class _Passes(threading.local):
    """Counts the calls of each module in one pass of the model; each thread has passes of its own."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.calls: dict[str, int] | None = None

    def begin(self, _module: nn.Module, _inputs: Any) -> None:
        self.calls = dict.fromkeys(self.names, 0)

    def called(self, name: str) -> None:
        if self.calls is None:  # somebody calls a part of the model by itself
            return
        self.calls[name] += 1
        if self.calls[name] > 1:
            raise InputError(
                f"the forward pass calls the module {name!r} more than once, so it has no single value to replace; "
                "choose the modules before or after it"
            )

    def check(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        for name, calls in (self.calls or {}).items():
            if calls == 0:
                raise InputError(
                    f"the forward pass never calls the module {name!r}, so nothing was replaced; choose another one"
                )

    def end(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self.calls = None


def _changed_output(name: str, change: Change, passes: _Passes) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        passes.called(name)
        return _with_tensor(output, change, name)

    return hook


def _changed_input(name: str, change: Change, passes: _Passes) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        passes.called(name)
        if inputs:
            return (_with_tensor(inputs[0], change, name), *inputs[1:]), keywords
        first = next(iter(keywords), None)
        if first is None:
            raise InputError(f"the module {name!r} is called without an input; replace what it gives, side='output'")
        return inputs, {**keywords, first: _with_tensor(keywords[first], change, name)}

    return hook


def _with_tensor(value: Any, change: Change, name: str) -> Any:
    """The value with its tensor changed; the value itself where the function gives the same tensor back."""
    tensor = only_tensor(value, name)
    new = change(tensor)
    return value if new is tensor else _rebuilt(value, new)


def _rebuilt(value: Any, new: Tensor) -> Any:
    """The value with another tensor where `only_tensor` finds its own."""
    if isinstance(value, Tensor):
        return new
    key = member_of(value)
    if isinstance(value, (tuple, list)):
        members = [_rebuilt(value[0], new), *value[1:]]
        return value._make(members) if hasattr(value, "_make") else type(value)(members)  # a named tuple has it
    made = copy.copy(value)
    if key == HIDDEN and hasattr(value, key):  # model outputs of transformers keep their items in step
        setattr(made, key, new)
    else:
        made[key] = new
    return made
