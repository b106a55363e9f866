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
        InputError: it is not installed, or does not fit what is; the message says what to install.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # importing runs the package's code, and loads libraries that may not fit the others
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if absent:
            raise InputError(
                f"{what} needs {package}, which is not installed: pip install 'unweave[{extra}]'"
            ) from None
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"{what} needs {package}, which is installed but cannot be imported ({said}): install what it lacks, or "
            "versions that fit each other; torch and torchvision come in pairs, for the CPU or for one CUDA"
        ) from error
