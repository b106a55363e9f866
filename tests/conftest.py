"""What every test gets: shapes checked at run time, real data where it is at hand, no progress bars, few threads."""

import gc
import os

os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # workers share the cores; processes that tests start do too

from collections.abc import Iterator
from pathlib import Path

import checking
import pytest
import torch
from hypothesis import settings

pytest_plugins = ["browsing", "faulting"]  # in tests/plugins: a real browser and servers for it; faults

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # GPU programs are tried on the CPU, where Triton is installed

# Must come before anything imports unweave. What a compiler has to read is left as it is written; so is what defines
# functions at every step.
_KERNELS = "unweave.dictionaries.kernels"
_COMPILED = {f"{_KERNELS}.{name}" for name in ("compiled", "loops", "programs", "team")}
_COMPILED.add("unweave.store.gather")
_SOURCE = Path(__file__).parents[1] / "src"
_PATHS = ((path, path.relative_to(_SOURCE).with_suffix("").parts) for path in (_SOURCE / "unweave").rglob("*.py"))
_MODULES = {".".join(parts[:-1] if path.stem == "__init__" else parts) for path, parts in _PATHS}
checking.install(_MODULES - _COMPILED)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# The same examples in every run, however slow the machine: a failure is the change's own doing.
settings.register_profile("unweave", deadline=None, derandomize=True)
settings.load_profile("unweave")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """What the imports made stays to the end: no collection has to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let it go, as at every end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_progress() -> Iterator[None]:
    from unweave.core.progress import silenced

    with silenced():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that UNWEAVE_DATA names; it holds mnist/ with the four original files."""
    named = os.environ.get("UNWEAVE_DATA")
    if named and (Path(named) / "mnist").is_dir():
        return Path(named).resolve()
    found = f"UNWEAVE_DATA={named} holds no folder mnist" if named else "UNWEAVE_DATA is not set"
    reason = f"needs real data: {found}; let it name a folder that holds mnist/ with the four original MNIST files"
    if os.environ.get("UNWEAVE_REQUIRE_DATA") == "1":
        pytest.fail(f"{reason} (UNWEAVE_REQUIRE_DATA=1 makes this a failure)")
    pytest.skip(reason)
