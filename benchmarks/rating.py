"""Many raters at once against a real server over loopback: how long an answer takes, and whether one is lost.

Ratings are sent at times fixed beforehand, whether the ones before were answered or not, and latency counts from the
time at which a rating was due: a server that stalls is charged for everybody who waits. After each rating the picture
after next is fetched, as the page does. At the end what the database holds is compared with what was answered.

    python -m benchmarks.rating
"""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro

from unweave.core.seeds import numpy_generator
from unweave.study import Study, Studying, make_study
from unweave.study.drawing import Candidates

_CONDITIONS = ("sae", "neurons", "pca", "random")
_WARM_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    raters: int = 50
    per_second: float = 10.0
    "ratings of all raters together"
    seconds: float = 40.0
    side: int = 96
    "pixels of a picture; 16 in colour make a grid"
    database: str | None = None
    "URL; SQLite in the study by default"


def measure(plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """One row: latency of ratings and pictures in milliseconds, ratings answered and stored."""
    folder = scratch / "rating"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        study = _study(plan, folder / "study")
        server, links = _serve(study, plan)
        try:
            found = asyncio.run(_rate(plan, links))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        size = len(study.grid(study.plan.items[0]))
        return [{**asdict(plan), **found, "stored": len(study.ratings()), "grid_bytes": size}]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _study(plan: Plan, folder: Path) -> Study:
    """Grids of noise: the largest files that pictures of this size can make."""

    def noise(latent: int) -> np.ndarray:
        shape = (16, 3, plan.side, plan.side)
        return numpy_generator(0, "noise", latent).integers(0, 256, shape, np.uint8)

    rate = np.geomspace(0.001, 0.1, 32)
    conditions = [
        Candidates(
            condition=name,
            source=name,
            latent=np.arange(32),
            live=rate > 0,
            rate=rate,
            shown=np.full(32, 16),
            pictures=noise,
        )
        for name in _CONDITIONS
    ]
    make_study(conditions, Studying(raters=plan.raters, skip=0), out=folder)
    return Study(folder, plan.database)


def _serve(study: Study, plan: Plan) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, "-m", "unweave.cli.main", "study", "serve", str(study.folder), "--port", "0"]
    given = ["--database", plan.database] if plan.database else []
    server = subprocess.Popen([*command, *given], stdout=subprocess.PIPE, text=True)
    links: dict[str, str] = {}
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.match(r"(rater-\d+): (\S+)/r/(\S+)", line):
            links[found[1]] = f"{found[2]}/api/{found[3]}"
        if line.startswith("Ctrl-C"):
            break
    for _ in range(600):
        try:
            httpx.get(next(iter(links.values())))
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return server, links
    raise SystemExit("the server does not answer")


async def _rate(plan: Plan, links: dict[str, str]) -> dict[str, object]:
    """Every rater rates at even intervals, all of them out of step."""
    waits: list[float] = []
    pictures: list[float] = []
    answered = 0
    interval = plan.raters / plan.per_second
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        begin = time.perf_counter() + _WARM_SECONDS

        async def one(place: int, api: str) -> None:
            nonlocal answered
            here = (await client.post(f"{api}/next")).json()
            due = begin + interval * place / plan.raters
            while here["current"] is not None and due < begin + plan.seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                answer = await client.post(f"{api}/rate", json={**here["current"], "value": 1 + answered % 7})
                waits.append(time.perf_counter() - due)
                answer.raise_for_status()
                answered += 1
                here = answer.json()["place"]
                if here["current"] is not None and here["done"] + 1 < here["total"]:
                    started = time.perf_counter()
                    (await client.get(f"{api}/grids/{here['current']['number'] + 1}")).raise_for_status()
                    pictures.append(time.perf_counter() - started)
                due += interval

        await asyncio.gather(*(one(place, api) for place, api in enumerate(links.values())))
        took = time.perf_counter() - begin
    return {
        "answered": answered,
        "answered_per_second": answered / took,
        "rating_ms": _quantiles(waits),
        "picture_ms": _quantiles(pictures),
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = (float(value) for value in 1000 * np.quantile(np.asarray(seconds), (0.5, 0.99)))
    return {"p50": p50, "p99": p99, "max": 1000 * max(seconds), "n": len(seconds)}


def main(plan: tyro.conf.OmitArgPrefixes[Plan] = Plan(), scratch: Path = Path("runs/benchmarks")) -> None:
    """Measure, and print what was found."""
    scratch.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(plan, scratch=scratch), indent=1))


if __name__ == "__main__":
    tyro.cli(main)
