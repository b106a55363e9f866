"""A sweep over a stream, as a run: many dictionaries of a layer whose activations are stored nowhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unweave.core.distributed import ranks
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary
from unweave.recipes.base import Run, carry_out, default_folder
from unweave.recipes.grid import Variant
from unweave.recipes.sweep import named, sweep_grid
from unweave.recipes.sweep_recipe import findings
from unweave.recipes.sweep_result import Sweep
from unweave.store.rows import RowSource


def sweep_stream(
    rows: RowSource,
    test: RowSource,
    grid: Sequence[Variant],
    *,
    config: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    runtime: Runtime | None = None,
) -> tuple[Run, Sweep]:
    """Sweep dictionaries over a stream into a folder: one capture, one pass over the rows to judge on.

    The folder belongs to the stream and its seed; the grid may grow in it, and what is there is not made again.

    Args:
        rows: to train on.
        test: held-out rows to judge on.
        grid: the dictionaries.
        config: what the rows are, as `run.json` says it.
        seeds: of the dictionaries.
        seed: of the stream.
        out: the folder; by default runs/sweep-stream-FINGERPRINT.
        data_dir: where the user's data lie.
        runtime: device and the like.

    Raises:
        InputError: the folder holds something else, or every training failed.
    """
    run = Run(out or default_folder("sweep-stream", config, seed), seed, data_dir, runtime or Runtime())
    found: list[Sweep] = []

    def work(run: Run) -> None:
        def place(name: str) -> Path:
            return run.folder / "artifacts" / f"sae@{name}"

        swept = sweep_grid(rows, test, grid, seeds, place, judged_on="held-out rows", seed=seed, runtime=run.runtime)
        for point in swept.points:
            if isinstance(swept.dictionaries.get(point.name), Dictionary):
                run.place(f"sae@{point.name}")
                run.record(point.metrics, condition=point.name)
        for control in swept.controls:
            run.place(f"sae@{control.condition},k={control.k}")
            run.record(control.metrics, condition=f"{control.condition},k={control.k}")
        if ranks().first:
            swept.save(run.folder)
        run.findings += findings(swept)
        found.append(swept)

    carry_out(
        run,
        {"recipe": "sweep stream", "config": dict(config), "seed": seed},
        work,
        aim={"sweep": [*named(grid, seeds)]},
    )
    return run, found[0]
