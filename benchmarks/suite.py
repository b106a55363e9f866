"""One suite, measured and written as JSON with what it was measured on."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro

from benchmarks import ablation, analysis, app, machine, quality, rating, reading, steps, streaming
from benchmarks.peers.protocol import OURS, drivers
from unweave.core.progress import silenced

Name = Literal[
    "steps", "steps-tuned", "steps-gpu", "quality", "analysis", "ablation", "reading", "streaming", "app", "rating"
]
NAMES: tuple[Name, ...] = get_args(Name)
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """How to measure."""

    quick: bool = False
    "smaller shapes, fewer rounds: a look in minutes, not a result"
    only: tuple[str, ...] = ()
    "sides by module (ours, saelens, overcomplete, dictionary_learning, sparsify); all that are installed by default"
    shapes: tuple[str, ...] = ()
    "shapes of the steps by name and batch, such as A/64 or B/4096; all by default"
    rounds: int | None = None
    "rounds of a case of the steps"
    results: Path = ROOT / "benchmarks" / "results"
    "folder of the JSON files"
    scratch: Path = ROOT / "runs" / "benchmarks"
    "folder for models and stores; put it on the disk that reading is to be measured on"


def run(name: Name, options: Options) -> Path:
    """Measure one suite and write `<results>/<name>.json`."""
    options.scratch.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with silenced():
        rows = _measure(name, options)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    path = options.results / f"{name}.json"
    found = {"suite": name, "quick": options.quick, "machine": machine.describe(), "rows": rows}
    path.write_text(json.dumps(_rounded(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _without_peers(quick: bool, scratch: Path) -> dict[str, Callable[[], list[dict[str, object]]]]:
    """Suites that measure Unweave beside itself or beside nothing."""
    small = {"n": 20_000, "rounds": 3, "threads": (1,)} if quick else {}
    app_plan = app.Plan(d_sae=1024, rows=4000, latents=10, rounds=3) if quick else app.Plan()
    rating_plan = rating.Plan(raters=10, seconds=8) if quick else rating.Plan()
    reading_plan = reading.Plan(gib=0.5, rounds=2) if quick else reading.Plan()
    streaming_plan = streaming.Plan(images=1024, sparsities=(4, 16), rounds=2) if quick else streaming.Plan()
    return {
        "analysis": lambda: analysis.measure(analysis.Plan(**small)),
        "ablation": lambda: ablation.measure(ablation.Plan(**small)),
        "reading": lambda: reading.measure(reading_plan, scratch=scratch),
        "streaming": lambda: streaming.measure(streaming_plan, scratch=scratch),
        "app": lambda: app.measure(app_plan, scratch=scratch),
        "rating": lambda: rating.measure(rating_plan, scratch=scratch),
    }


def _measure(name: Name, options: Options) -> list[dict[str, object]]:
    quick, scratch = options.quick, options.scratch
    if name in (alone := _without_peers(quick, scratch)):
        return alone[name]()
    sides = drivers(options.only)
    if OURS not in {side.name for side in sides}:
        raise SystemExit("there is nothing to compare with: Unweave is driven with greenlet (pip install greenlet)")
    if name == "quality":
        small_quality = quality.Plan(k=(32,), steps=60, kinds=("topk", "batch-topk"), held_out=2000, equal_time=False)
        return quality.measure(sides, small_quality if quick else quality.Plan(), scratch=scratch)
    if name == "steps-gpu":
        if not torch.cuda.is_available():
            print("steps-gpu: this machine has no CUDA device")
            return []
        on_gpu = steps.Plan(shapes=steps.ON_GPU[:1] if quick else steps.ON_GPU, threads=(1,), device="cuda")
        return steps.measure(sides, on_gpu, tuned=False, scratch=scratch)
    small_steps = steps.Plan(shapes=steps.A[:2], threads=(1,), rounds=5, sample_seconds=0.02)
    plan = small_steps if quick else steps.Plan()
    shapes = [shape for shape in (*steps.A, steps.B) if f"{shape.name}/{shape.batch}" in options.shapes]
    plan = replace(plan, shapes=shapes or plan.shapes, rounds=options.rounds or plan.rounds)
    return steps.measure(sides, plan, tuned=name == "steps-tuned", scratch=scratch)


def _rounded(value: object) -> object:
    """Five significant digits, and null for what is not a number."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if value == value else None  # noqa: PLR0124
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def main(name: tyro.conf.Positional[Name], options: tyro.conf.OmitArgPrefixes[Options]) -> None:
    """Measure one suite in this process."""
    print(f"{name}: {torch.get_num_threads()} threads at most", flush=True)
    print(f"wrote {run(name, options)}")


if __name__ == "__main__":
    tyro.cli(main)
