import pytest

from unweave.core.errors import InputError
from unweave.core.optional import needs


def test_a_module_that_is_there_is_given() -> None:
    assert needs("json.decoder", extra="app", what="the app").JSONDecoder


def test_a_missing_package_names_its_install() -> None:
    with pytest.raises(InputError, match=r"the app needs nowhere_to_be_found, .* pip install 'unweave\[app\]'"):
        needs("nowhere_to_be_found.inner", extra="app", what="the app")
