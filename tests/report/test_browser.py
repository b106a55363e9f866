"""The page in a real browser, offline."""

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from unweave.recipes.base import Run
from unweave.report import build_report

WIDTH = 900

# Quiet background services: nothing is looked for on a network.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]


@pytest.mark.browser
def test_the_page_opens_without_a_complaint(chromium_path: Path, finished: Run, tmp_path: Path) -> None:
    page = build_report(finished.folder)
    # A copy with a probe in its title: nothing of the page may be wider than the window, or empty.
    probe = (
        "<script>addEventListener('load', () => { const r = document.body.getBoundingClientRect();"
        "const broken = [...document.images].filter(i => !i.naturalWidth).length;"
        "console.info(`probe ${r.width} ${r.height} ${document.documentElement.scrollWidth} ${broken}`); });</script>"
    )
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"{probe}</body>"))
    picture = tmp_path / "page.png"
    command = [str(chromium_path), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={WIDTH},1400"]
    ended = subprocess.run(
        [*command, f"--screenshot={picture}", copy.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    console = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line]
    assert len(console) == 1, ended.stderr[-2000:]
    width, height, scroll_width, broken = map(float, re.findall(r"[\d.]+", console[0].partition("probe ")[2])[:4])
    assert 300 < width <= WIDTH
    assert height > 2000
    assert scroll_width <= WIDTH, "wide tables scroll inside the page, not the page"
    assert broken == 0
    with Image.open(picture) as shot:
        assert shot.size == (WIDTH, 1400)
        assert len(shot.convert("L").getcolors()) > 20, "not a blank page"
