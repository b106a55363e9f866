import sys

import pytest

from unweave.core.errors import InputError
from unweave.core.optional import needs


def test_a_module_that_is_there_is_given() -> None:
    assert needs("json.decoder", extra="app", what="the app").JSONDecoder


def test_a_missing_package_names_its_install() -> None:
    with pytest.raises(InputError, match=r"the app needs nowhere_to_be_found, .* pip install 'unweave\[app\]'"):
        needs("nowhere_to_be_found.inner", extra="app", what="the app")


@pytest.mark.parametrize("code", ["import not_here_either", "raise RuntimeError('operator other::nms does not exist')"])
def test_a_package_that_does_not_work_here_says_why(tmp_path, monkeypatch, code) -> None:
    (tmp_path / "broken_here.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"installed but cannot be imported \((ModuleNotFound|Runtime)Error: .*fit"):
        needs("broken_here", extra="timm", what="the model")
    assert "broken_here" not in sys.modules
