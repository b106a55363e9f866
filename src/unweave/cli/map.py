"""`unweave map`: latents as points on a plane."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from unweave.analyze.atlas import Atlas
from unweave.analyze.maps import METHODS, write_map
from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import InputError, did_you_mean
from unweave.formats import load

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class MapArguments:
    """Flags of `unweave map`."""

    dictionary: tyro.conf.Positional[str]
    "a dictionary's folder, another library's, or hf://ORG/REPO[/FOLDER]"
    out: Path
    "folder of the map"
    method: str = METHODS[0]
    "how directions are laid out: tsne, umap or pca"
    atlas: Path | None = None
    "an atlas of it: latents that never fire are then left out"
    seed: int = 0
    "of the layout"
    overwrite: bool = False
    "replace another artifact in --out"


def map_command(given: list[str], program: str) -> None:
    """Lay the latents of a dictionary out on a plane by their decoder directions."""
    read = parse(MapArguments, unfilled(MapArguments), given, program=program, description=map_command.__doc__ or "")
    if read.method not in METHODS:
        raise InputError(f"--method {read.method!r}: {did_you_mean(read.method, METHODS)}")
    write_map(
        load(read.dictionary),
        atlas=None if read.atlas is None else Atlas(read.atlas, verify=False),
        method=read.method,
        seed=read.seed,
        out=read.out,
        overwrite=read.overwrite,
    )
    console.print(f"Map: {read.out}")
