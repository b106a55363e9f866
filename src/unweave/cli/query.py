"""`unweave query`: a picture of one's own, its strongest latents and the images nearest to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from unweave.analyze.query import Query
from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import InputError
from unweave.datasets.base import ImageDataset
from unweave.figures.files import write
from unweave.recipes.query import Asked, open_run, sheet

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class QueryArguments:
    """Flags of `unweave query`."""

    run: tyro.conf.Positional[Path]
    "a run's folder"
    image: tyro.conf.Positional[Path]
    "a picture of your own; it is cut to a square and resized as the run's images were"
    data_dir: Annotated[Path | None, tyro.conf.arg(aliases=("--images",))] = None
    "where the run's images lie, to show the nearest ones"
    dictionary: str = "sae"
    "which of the run's dictionaries: sae, or sae@NAME"
    latents: int = 8
    "how many of the strongest latents"
    nearest: int = 8
    "how many of the nearest images"
    out: Path | None = None
    "folder for the figure; by default `queries` in the run"


def query_command(given: list[str], program: str) -> None:
    """Show a run a picture of your own: its strongest latents, and the images nearest to it."""
    text = query_command.__doc__ or ""
    read = parse(QueryArguments, unfilled(QueryArguments), given, program=program, description=text)
    asked = open_run(read.run, read.dictionary)
    image = asked.image(read.image)
    found = asked.ask(image.float() / 255, latents=read.latents, nearest=read.nearest)
    shown = Console(highlight=False)
    shown.print(_latents(asked, found))
    try:
        images = asked.images(read.data_dir)
    except InputError as error:
        images = None
        console.print(f"The nearest images are not shown: {error}")
    shown.print(_nearest(asked, found, images))
    folder = read.out or read.run / "queries"
    write(sheet(asked, image, found, images), folder, read.image.stem)
    console.print(f"The dictionary explains {100 * found.explained:.1f} % of this image's row.")
    console.print(f"Figure: {(folder / f'{read.image.stem}.png').resolve()}")


def _latents(asked: Asked, found: Query) -> Table:
    table = Table(title="strongest latents", title_justify="left", box=None, pad_edge=False, header_style="bold")
    known = asked.atlas
    for heading in ("latent", "value", *(("of its largest", "fires on") if known else ())):
        table.add_column(heading, justify="right")
    for latent, value in zip(found.latents.tolist(), found.values.tolist(), strict=True):
        cells = [str(latent), f"{value:.3g}"]
        if known is not None:
            largest, rate = float(known.column("max")[latent]), float(known.column("rate")[latent])
            cells += [f"{100 * value / largest:.0f} %" if largest else "–", f"{100 * rate:.2g} %"]
        table.add_row(*cells)
    return table


def _nearest(asked: Asked, found: Query, images: ImageDataset | None) -> Table:
    table = Table(title="nearest images", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("in the layer", "cosine", "in codes", "cosine"):
        table.add_column(heading, justify="right")
    pairs = zip(found.examples.tolist(), found.similarities, strict=True)
    by_code = zip(found.examples_by_code.tolist(), found.similarities_by_code, strict=True)
    for (one, cosine), (other, code_cosine) in zip(pairs, by_code, strict=True):
        table.add_row(_name(one, images), f"{cosine:.3f}", _name(other, images), f"{code_cosine:.3f}")
    return table


def _name(example: int, images: ImageDataset | None) -> str:
    """An image by number, with its file where that is known, else its class."""
    if images is None:
        return str(example)
    names = getattr(images, "names", None)
    if names is not None:
        return f"{example} {names[example]}"
    return (
        f"{example} {images.class_names[int(images.labels[example])]}" if len(images.class_names) > 1 else str(example)
    )
