"""What a result was measured on: processor, memory, what it can do, and the versions of everything that took part."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

# What decides how fast a matrix product is: tiles (AMX), 512-bit vectors, and either of them for bfloat16.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
_LIBRARIES = (
    "unweave",
    "torch",
    "numpy",
    "scipy",
    "sae-lens",
    "overcomplete",
    "dictionary-learning",
    "eai-sparsify",
)
_MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def describe() -> dict[str, object]:
    """The machine and the software, as plain values."""
    said = _cpuinfo()
    flags = set((said.get("flags") or said.get("Features") or "").split())
    return {
        "cpu": said.get("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
        "allocator": "keeps its pages" if any(name in os.environ for name in _MALLOC) else "as shipped",
    }


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    first: dict[str, str] = {}
    for name, _, value in pairs:
        first.setdefault(name.strip(), value.strip())
    return first


def _memory_gib() -> float | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _version(name: str) -> str | None:
    try:
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return None
