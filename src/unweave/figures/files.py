"""Figures on disk: each as PNG and as SVG."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from unweave.figures.style import house_style


def write(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and SVG, and give the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with house_style():
        figure.savefig(folder / f"{name}.png")
        figure.set_layout_engine("none")  # the places are found: the SVG takes the same
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    (folder / f"{name}.svg").write_text(buffer.getvalue())
    return buffer.getvalue()
