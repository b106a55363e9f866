"""The page on new dictionaries says what the suite does."""

import importlib.util
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from unweave.dictionaries.base import DictionaryConfig
from unweave.testing import Claims, DictionaryConformance

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-dictionary.md"


def test_its_dictionary_conforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = DictionaryConfig.registry
    monkeypatch.setattr(registry, "_members", dict(registry.members()))  # what the page registers goes with the test
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    path = tmp_path / "relu_log.py"
    path.write_text("\n\n".join(blocks), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("relu_log", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "relu_log", module)
    spec.loader.exec_module(module)
    assert ": 0 of " in capsys.readouterr().out
    assert issubclass(module.TestReLULog, DictionaryConformance)
    assert "relu-log" in registry.members()


def test_its_table_names_every_claim() -> None:
    named = set(re.findall(r"^\| `(\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {field.name for field in fields(Claims)} | {"example"}
