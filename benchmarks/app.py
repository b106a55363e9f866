"""The app over a large run: how long the server takes for each page, and a browser for the first one.

The run is that of `benchmarks.big_atlas`. Pages are asked for one after the other on an idle server over loopback. A
latent's page is a fresh latent's each time, so that nothing of it was read before; what comes after the page is open
(neighbours, partners) is asked for by itself. The browser's time runs from an empty cache until the last part of the
page has come.

    python -m benchmarks.app
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro

from benchmarks import big_atlas
from unweave.core.errors import InputError
from unweave.core.optional import needs
from unweave.core.seeds import numpy_generator

_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    d_sae: int = 16_384
    rows: int = 60_000
    latents: int = 50
    "latents whose pages are asked for"
    rounds: int = 10
    "how often the other pages are"
    chromium: str = ""
    "the browser's program; by default chromium, where it is installed"
    folder: str = ""
    "a run folder to measure in place of a planted one"


def measure(plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """A row for each page: milliseconds as median, 99th percentile and largest, and the size of the answer."""
    folder = Path(plan.folder) if plan.folder else scratch / "app" / "big"
    if not plan.folder:
        big_atlas.build(folder, big_atlas.Plan(d_sae=plan.d_sae, rows=plan.rows))
    server, address = _serve(folder)
    try:
        rows = _pages(plan, address)
        rows += _in_a_browser(plan, address)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return [{"d_sae": plan.d_sae, "n": plan.rows, **row} for row in rows]


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "unweave.cli.main", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    if found is None:
        raise SystemExit("the server did not start")
    return server, found[0].rstrip("/")


def _pages(plan: Plan, address: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with httpx.Client(base_url=address, timeout=_PATIENCE_SECONDS) as client:
        run = client.get("/api/runs").json()[0]["run"]
        firing = client.get(f"/api/runs/{run}/latents", params={"status": "firing", "limit": 1}).json()["total"]
        places = numpy_generator(0, "latents").choice(firing, (4, plan.latents), replace=False)
        drawn = [[_latent(client, run, int(place)) for place in places_of] for places_of in places]

        def ask(what: str, paths: Sequence[str]) -> None:
            rows.append({"page": what, "where": "server", **_timed(client, paths)})

        api, page = f"/api/runs/{run}", f"/run/{run}"
        again = range(plan.rounds)
        ask("overview", [page for _ in again])
        ask("atlas", [f"{page}/atlas?method=pca" for _ in again])
        ask("latent", [f"{page}/latent/{latent}" for latent in drawn[0]])
        ask("a latent's picture", [f"{api}/latents/{latent}.png" for latent in drawn[1]])
        ask("a latent's neighbours", [f"{api}/latents/{latent}/neighbours" for latent in drawn[2]])
        ask("a latent's partners", [f"{api}/latents/{latent}/companions" for latent in drawn[3]])
        ask("a page of the table", [f"{api}/latents?limit=25&offset={25 * n}" for n in again])
        ask("the map", [f"{api}/map?method=pca" for _ in again])
    return rows


def _latent(client: httpx.Client, run: str, place: int) -> int:
    """The latent at one place of the table of those that fire."""
    found = client.get(f"/api/runs/{run}/latents", params={"status": "firing", "offset": place, "limit": 1}).json()
    return int(found["items"][0]["latent"])


def _timed(client: httpx.Client, paths: Sequence[str]) -> dict[str, object]:
    """The first answer, which may open files, by itself; the others together."""
    milliseconds, size = [], 0
    for path in paths:
        started = time.perf_counter()
        answer = client.get(path)
        milliseconds.append(1000 * (time.perf_counter() - started))
        answer.raise_for_status()
        size = max(size, len(answer.content))
    return {"first_ms": milliseconds[0], "ms": _quantiles(milliseconds[1:]), "kilobytes": size / 1000}


def _in_a_browser(plan: Plan, address: str) -> list[dict[str, object]]:
    """From an empty cache until nothing is loaded or drawn any more; none where there is no browser."""
    program = plan.chromium or shutil.which("chromium") or ""
    try:
        started = needs("playwright.sync_api", extra="dev", what="timing in a browser").sync_playwright
    except InputError:
        program = ""
    if not program:
        print("no browser: its rows are left out", flush=True)
        return []
    rows: list[dict[str, object]] = []
    with started() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        run = httpx.get(f"{address}/api/runs").json()[0]["run"]
        for what, path in (("overview", ""), ("atlas", "/atlas?method=pca"), ("latent", "/latent/{}")):
            seconds = []
            for n in range(plan.rounds):
                context = browser.new_context(viewport={"width": 1366, "height": 768})
                page = context.new_page()
                seconds.append(_until(lambda page=page, path=path, n=n: _open(page, address, run, path.format(n))))
                context.close()
            rows.append({"page": what, "where": "browser", "ms": _quantiles([1000 * s for s in seconds])})
        browser.close()
    return rows


def _open(page: object, address: str, run: str, path: str) -> None:
    page.goto(f"{address}/run/{run}{path}")  # type: ignore[attr-defined]
    page.wait_for_function(  # type: ignore[attr-defined]
        "document.querySelector('canvas') && !document.querySelector('.q-spinner')", polling=20
    )


def _until(done: Callable[[], object]) -> float:
    started = time.perf_counter()
    done()
    return time.perf_counter() - started


def _quantiles(milliseconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = (float(value) for value in np.quantile(np.asarray(milliseconds), (0.5, 0.99)))
    return {"p50": p50, "p99": p99, "max": max(milliseconds), "n": len(milliseconds)}


def main(plan: tyro.conf.OmitArgPrefixes[Plan] = Plan(), scratch: Path = Path("runs/benchmarks")) -> None:
    """Measure, and print what was found."""
    scratch.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"plan": asdict(plan), "rows": measure(plan, scratch=scratch)}, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
