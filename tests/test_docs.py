"""The documentation agrees with the code: links lead somewhere, code runs, tables say what the code says."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples" / "own_module.py"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def _links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))


def _target(page: Path, link: str) -> Path:
    return (page.parent / link.partition("#")[0]).resolve() if not link.startswith("#") else page


def _anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    given = [sys.executable, *command]
    done = subprocess.run(given, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_configuration_page", DOCS / "reference" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in _links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, fragment = _target(page, link), link.partition("#")[2]
        if not target.exists() or (fragment and fragment not in _anchors(target)):
            dead.append(link)
    assert not dead, f"{page.relative_to(ROOT)}: {', '.join(dead)}"


def test_the_index_names_every_page() -> None:
    index = DOCS / "index.md"
    named = {_target(index, link) for link in _links(index)}
    left_out = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md")) if page not in {*named, index}]
    assert not left_out


def test_the_configuration_page_is_what_the_registries_say(generator: ModuleType) -> None:
    written = generator.PAGE.read_text(encoding="utf-8")
    assert written == generator.render(), "run: python docs/reference/generate.py"


def test_the_tutorial_shows_the_code_of_the_example() -> None:
    code = EXAMPLE.read_text(encoding="utf-8")
    blocks = _blocks(DOCS / "tutorial" / "notebook.md", "python")
    assert blocks
    assert [block for block in blocks if block not in code] == []


def test_the_recipe_and_dictionary_of_the_how_tos_work(tmp_path: Path) -> None:
    for page, name in (("add-a-dictionary", "relu_log"), ("add-a-recipe", "digits_tanh"), ("own-model", "my_models")):
        (tmp_path / f"{name}.py").write_text(_blocks(DOCS / "how-to" / f"{page}.md", "python")[0], encoding="utf-8")
    (tmp_path / "use.py").write_text(
        "import relu_log, digits_tanh, my_models, torch, unweave\n"
        "from unweave.recipes.base import RECIPES\n"
        "rows = unweave.capture(my_models.Net(), torch.rand(20, 1, 6, 6), at='stage')\n"
        "sae = unweave.train(rows, unweave.ReLULog(d_sae=12), unweave.Training(epochs=2))\n"
        "assert 'log' in sae.history\n"
        "print(unweave.analyze(sae, rows).d_sae, 'digits-tanh' in RECIPES.members())\n"
    )
    assert _run(["use.py"], tmp_path).split() == ["12", "True"]


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    printed = _run([str(EXAMPLE)], tmp_path)
    assert "dictionary/explained_variance" in printed
    assert (tmp_path / "runs" / "own-module" / "latent.png").is_file()
