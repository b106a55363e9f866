"""Rules of the house that no lint tool holds: where imports may point, how long things are, what never appears."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "unweave"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOR_OTHERS = PACKAGE / "formats" / "torch_files.py"  # writes plain tensors for libraries whose format is torch.save's
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
GLOBAL_SEEDS = re.compile(r"(torch\.(cuda\.|random\.)?manual_seed(_all)?|(np\.|numpy\.)?random\.seed)")

Rule = Callable[[ast.Module, Path], Iterator[str]]


def _at(node: ast.AST, what: str) -> str:
    return f"line {getattr(node, 'lineno', '?')}: {what}"


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def _imported(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module


def imports_the_package_root(tree: ast.Module, path: Path) -> Iterator[str]:
    """The root hands names on: whatever below it imports it makes a circle. Relative imports would hide that."""
    for node, name in _imported(tree):
        if name == "unweave":
            yield _at(node, "imports the package root; name the module that has it")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield _at(node, "a relative import; name the module in full")


def init_does_work(tree: ast.Module, path: Path) -> Iterator[str]:
    """`__init__` has a docstring, imports and `__all__`, and may hand names on late with `__getattr__`."""
    for node in tree.body if path.name == "__init__.py" else []:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AnnAssign(target=ast.Name(id="__all__")):
                continue
            case ast.FunctionDef(name="__getattr__" | "__dir__"):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=[]):
                if all(isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body):
                    continue
        yield _at(node, "an __init__ only hands names on")


def too_long(tree: ast.Module, path: Path) -> Iterator[str]:
    """A file has 500 lines at most, a function 80."""
    lines = max((node.end_lineno or 0 for node in tree.body), default=0)
    if lines > 500:
        yield f"{lines} lines; 500 at most"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > 80:
                yield _at(node, f"{node.name} has {length} lines; 80 at most")


def pickles(tree: ast.Module, path: Path) -> Iterator[str]:
    """Nothing is written as a pickle, and what a user brings is never unpickled."""
    for node, name in _imported(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if name.partition(".")[0] in PICKLES and names != ["UnpicklingError"]:  # torch raises that one
            yield _at(node, f"imports {name}; nothing on disk is a pickle")
    for call, name in _calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield _at(call, "torch.load without weights_only=True runs what the file says")
        if (name == "torch.save" and path != FOR_OTHERS) or keywords.get("allow_pickle") == "True":
            yield _at(call, "nothing on disk is a pickle; write safetensors")


def seeds_the_process(tree: ast.Module, path: Path) -> Iterator[str]:
    """Randomness comes from an explicit generator, never from the process's own."""
    for call, name in _calls(tree):
        if GLOBAL_SEEDS.fullmatch(name):
            yield _at(call, f"{name} changes everybody's random numbers; use unweave.core.seeds")


RULES: list[Rule] = [imports_the_package_root, init_does_work, too_long, pickles, seeds_the_process]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module(rule: Rule) -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    offenders = [f"{path.relative_to(ROOT)} {what}" for path, tree in trees.items() for what in rule(tree, path)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (imports_the_package_root, "import unweave"),
        (imports_the_package_root, "from unweave import capture"),
        (imports_the_package_root, "from . import capture"),
        (init_does_work, "from a import b\nb()"),
        (init_does_work, "LIMIT = 3"),
        (too_long, "\n" * 500 + "x = 1"),
        (too_long, "def f():\n" + "    x = 1\n" * 80),
        (pickles, "import pickle"),
        (pickles, "from joblib import dump"),
        (pickles, "torch.load(path, weights_only=False)"),
        (pickles, "torch.load(path)"),
        (pickles, "np.load(path, allow_pickle=True)"),
        (seeds_the_process, "def f():\n    torch.manual_seed(0)"),
        (seeds_the_process, "np.random.seed(0)"),
        (seeds_the_process, "random.seed(0)"),
    ],
)
def test_a_rule_finds_what_it_forbids(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source), Path("__init__.py")))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("__init__.py", '"""Text."""\nfrom a import b\n__all__ = ["b"]'),
        ("__init__.py", "if TYPE_CHECKING:\n    from a import b"),
        ("__init__.py", "def __getattr__(name: str) -> object:\n    return name"),
        ("module.py", "from unweave.core.errors import InputError"),
        ("module.py", "def f():\n" + "    x = 1\n" * 79),
        ("module.py", "torch.load(path, weights_only=True)"),
        ("module.py", "from pickle import UnpicklingError"),
        ("module.py", "torch.Generator().manual_seed(0)"),
        ("module.py", "generator.manual_seed(0)"),
    ],
)
def test_no_rule_forbids_what_is_right(name: str, source: str) -> None:
    assert not [what for rule in RULES for what in rule(ast.parse(source), Path(name))]


def _matches(pattern: str) -> list[str]:
    texts = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".j2", ".css", ".md"}]
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if found.search(line)
    ]


def test_no_path_of_one_machine_is_in_the_package() -> None:
    assert not _matches(r"(?<![\w.~/-])/(home|work|root|Users)/")


def test_nothing_is_left_to_do_in_comments() -> None:
    assert not _matches(r"\b(TODO|FIXME|HACK)\b")


@pytest.mark.parametrize(
    ("module", "base"),
    [
        ("unweave.datasets.base", "DatasetConfig"),
        ("unweave.datasets.rows", "RowsConfig"),
        ("unweave.models.base", "ModelConfig"),
        ("unweave.dictionaries.base", "DictionaryConfig"),
    ],
)
def test_every_registered_configuration_explains_itself(module: str, base: str) -> None:
    family = getattr(importlib.import_module(module), base)
    members = family.registry.members()
    assert members
    for cls in members.values():
        assert issubclass(cls, family), f"{cls.__name__} is registered in another family"
        assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"
        # Not cls.__doc__: a dataclass makes one of its own where there is none.
        assert ast.get_docstring(_definition(cls)), f"{cls.__name__} has no docstring"
        explained = {name for part in cls.__mro__ if dataclasses.is_dataclass(part) for name in _explained(part)}
        silent = [field.name for field in dataclasses.fields(cls) if field.name not in explained]
        assert not silent, f"{cls.__name__}: no help string below the field {', '.join(silent)}"


def _definition(cls: type) -> ast.ClassDef:
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition


def _explained(cls: type) -> set[str]:
    """Fields with a string below them: the text that the command line shows."""
    explained = set()
    for field, below in itertools.pairwise(_definition(cls).body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                explained.add(name)
    return explained
