"""Figures of a report: drawn once, written as PNG and SVG, and put into the page as SVG that follows its colours."""

import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from unweave.figures import style
from unweave.figures.conditions import frequencies, information_map, selectivity
from unweave.figures.curves import dictionary_curves, model_curves
from unweave.figures.files import write
from unweave.report.contents import MAIN, Contents

_PAGE_COLOURS = {
    style.INK: "var(--ink)",
    style.QUIET: "var(--quiet)",
    style.FAINT: "var(--faint)",
    style.ACCENT: "var(--accent)",
    "#ffffff": "var(--paper)",
    "white": "var(--paper)",
}

_PIXELS_A_POINT = 1.35  # so that every figure's letters have the same size on the page


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: its file's name, what it shows, and the SVG."""

    name: str
    caption: str
    svg: str


def draw_all(contents: Contents, folder: Path) -> list[Drawing]:
    """Draw what the contents allow; `folder` gets a PNG and an SVG of each."""
    figures = [*_curves(contents), *_atlas_figures(contents)]
    return [Drawing(name, caption, inline(write(figure, folder, name), name)) for name, caption, figure in figures]


def _curves(contents: Contents) -> list[tuple[str, str, Figure]]:
    found = []
    if contents.curves is not None:
        caption = "The network under study while it was trained; test images were never trained on."
        found.append(("model_curves", caption, model_curves(contents.curves)))
    if contents.history is not None:
        caption = "The dictionary while it was trained; numbers are means over training batches."
        found.append(("dictionary_curves", caption, dictionary_curves(contents.history)))
    return found


def _atlas_figures(contents: Contents) -> list[tuple[str, str, Figure]]:
    atlases = contents.atlases
    if not atlases:
        return []
    first = next(iter(atlases.values()))
    rows, live_share = int(first.metrics["dictionary/rows"]), first.analysis.live_share
    rates = {name: atlas.column("rate") for name, atlas in atlases.items()}
    caption = f"How often latents fire on {rows:,} rows; beyond the dotted line a latent counts as live."
    found = [("frequencies", caption, frequencies(rates, rows=rows, live_share=live_share))]
    if first.class_names is None or first.class_totals is None:
        return found
    live = {name: atlas.column("rate") > live_share for name, atlas in atlases.items()}
    shares = {name: atlas.column("top_class_share")[live[name]] for name, atlas in atlases.items()}
    bits = {name: atlas.column("mutual_information")[live[name]] for name, atlas in atlases.items()}
    prior = float(first.class_totals.max() / first.class_totals.sum())
    caption = (
        "Live latents against controls with as many active latents a row: median (dot), quartiles (box), 5th to 95th "
        "percentile (line). Dotted: share of the commonest class among all examples. A latent that fires rarely can "
        "look pure by chance; its information cannot be large."
    )
    found.append(("selectivity", caption, selectivity(shares, bits, prior=prior)))
    main = atlases.get(MAIN, first)
    alive = main.column("rate") > live_share
    significant = main.column("q")[alive] < 0.05
    caption = (
        f"Each live latent of the dictionary. {int(significant.sum())} of {int(alive.sum())} tell more about the class "
        f"than {main.analysis.permutations} label permutations allow at a false discovery rate of 5 %."
    )
    figure = information_map(main.column("rate")[alive], main.column("mutual_information")[alive], significant)
    found.append(("information", caption, figure))
    return found


def inline(svg: str, name: str) -> str:
    """An SVG document as part of a page: no prologue, its colours the page's own, its ids told apart by `name`."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    width = re.search(r'viewBox="0 0 ([0-9.]+)', body)
    assert width is not None, "matplotlib writes a viewBox"
    size = f'style="max-width: {_PIXELS_A_POINT * float(width[1]):.0f}px"'
    body = re.sub(r'<svg([^>]*?) width="[^"]*"', rf"<svg {size}\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    for colour, variable in _PAGE_COLOURS.items():
        body = re.sub(rf"(fill|stroke): {re.escape(colour)}\b", rf"\1: {variable}", body)
    return body
