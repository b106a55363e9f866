"""Types and shapes are checked at every call: an import hook puts `checked` on each function and class of a package.

jaxtyping has such a hook as well. It binds every call's arguments by name and checks them twice, in functions without
shapes too, which took most of the tests' time; here beartype checks once, and only functions that name shapes pay for a
context of their own, in which one letter means one size.
"""

import ast
import functools
import hashlib
import importlib.abc
import importlib.machinery
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

# The tower lets an int stand for a float, as PEP 484 and mypy do.
_CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError)
_NAME = "__checked__"
_TAG = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def install(modules: Collection[str]) -> None:
    """Check what these modules define; none of them may have been imported before."""
    assert not set(modules) & set(sys.modules), "too late: it is imported already"
    sys.meta_path.insert(0, _Finder(frozenset(modules)))


def checked(made: Any) -> Any:
    """A function whose arguments and result are checked; of a class, what a dataclass is made from."""
    if isinstance(made, type):
        init = vars(made).get("__init__")
        if is_dataclass(made) and isinstance(init, types.FunctionType) and not hasattr(init, _NAME):
            made.__init__ = _function(init)  # type: ignore[misc]
        return made
    return _function(made)


def _function(raw: Callable[..., Any]) -> Callable[..., Any]:
    call: Callable[..., Any] | None = None

    @functools.wraps(raw)
    def at_call(*given: Any, **named: Any) -> Any:
        nonlocal call
        if call is None:  # most functions are never called; names that stand further down in the file are known now
            call = _prepared(raw)
        return call(*given, **named)

    setattr(at_call, _NAME, True)
    return at_call


def _prepared(raw: Any) -> Callable[..., Any]:
    hints = {name: _resolved(hint, raw.__globals__) for name, hint in raw.__annotations__.items()}
    copy = types.FunctionType(raw.__code__, raw.__globals__, raw.__name__, raw.__defaults__, raw.__closure__)
    copy.__kwdefaults__, copy.__qualname__, copy.__module__ = raw.__kwdefaults__, raw.__qualname__, raw.__module__
    copy.__annotations__ = hints
    if inspect.isgeneratorfunction(raw):  # beartype would check its arguments when the first thing is asked for
        return jaxtyped(copy, typechecker=beartype(conf=_CONF))
    check = beartype(conf=_CONF)(copy)
    if not any(map(_names_shapes, hints.values())):
        return check

    def in_context(*given: Any, **named: Any) -> Any:
        with jaxtyped("context"):
            return check(*given, **named)

    return in_context


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The hint without strings in it; anything goes where a name is known to type checkers only."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["hint"]
    except NameError:
        return Any


def _names_shapes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    inner = hint if isinstance(hint, list) else typing.get_args(hint)
    return any(map(_names_shapes, inner))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> types.CodeType:  # type: ignore[override]
        tree = _Decorating().visit(ast.parse(data, path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, _NAME, checked)
        super().exec_module(module)

    def get_data(self, path: Any) -> bytes:
        return super().get_data(_beside(path))

    def set_data(self, path: Any, data: Any, **more: Any) -> None:
        super().set_data(_beside(path), data, **more)


def _beside(path: str) -> str:
    """Where bytecode lies: not where that of the same source without checks does."""
    return path.removesuffix(".pyc") + f".checked-{_TAG}.pyc" if path.endswith(".pyc") else path


class _Decorating(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(_decorator(node))  # innermost: others may hide the annotations
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, _decorator(node))  # outermost: @dataclass comes first
        return self.generic_visit(node)


def _decorator(node: ast.AST) -> ast.expr:
    return ast.fix_missing_locations(ast.copy_location(ast.Name(_NAME, ast.Load()), node))
