"""Packages that come with an extra."""

import importlib
from typing import Any

from unweave.core.errors import InputError


def needs(module: str, *, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name.
        extra: which of Unweave's extras brings it.
        what: what needs it, as the subject of the message.

    Raises:
        InputError: it is not installed; the message names the install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something of its own
        package = module.partition(".")[0]
        raise InputError(f"{what} needs {package}, which is not installed: pip install 'unweave[{extra}]'") from None
