"""Figures on disk: each as PNG and as SVG."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from unweave.figures.style import house_style
from unweave.store.drafts import disk_errors, replacing


def write(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and SVG, each whole or not at all, and give the SVG.

    Raises:
        StoreError: there is no room on the disk, or it cannot be written to.
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with disk_errors(png):
        folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with house_style():
        with replacing(png) as draft:
            figure.savefig(draft, format="png")
        figure.set_layout_engine("none")  # the places are found: the SVG takes the same
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    with replacing(svg) as draft:
        draft.write_text(buffer.getvalue(), encoding="utf-8")
    return buffer.getvalue()
