"""How good a dictionary is after equal steps, and after equal time.

Every side sees the same batches in the same order and is judged on the same held-out rows: unexplained variance (FVU),
active latents a row (L0), share of latents that fire on none of them (dead), and, where the truth is planted, how many
of the true directions were found. Seconds are those of the steps alone.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.data import Rows, activations, batches, planted
from benchmarks.peers.protocol import KINDS, OURS, Coder, Driver, Kind, Task
from benchmarks.timing import threads
from unweave.metrics.reconstruction import ReconstructionSums

BY_K = ("topk", "batch-topk")
FOUND = 0.9  # cosine from which a true direction counts as recovered


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    k: Sequence[int] = (16, 32)
    steps: int = 2000
    batch: int = 512
    d_sae: int = 1024
    kinds: Sequence[Kind] = KINDS
    seeds: Sequence[int] = (0,)
    threads: int = 1
    held_out: int = 10_000
    equal_time: bool = True


@dataclass(frozen=True)
class Side:
    """A way to learn: a library, a kind of dictionary, a recipe."""

    driver: Driver
    kind: Kind
    recipe: str

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.driver.name


def measure(drivers: Sequence[Driver], plan: Plan, *, scratch: Path) -> list[dict[str, object]]:
    """One row a side, data set, k and seed, first at equal steps, then at equal time."""
    rows: list[dict[str, object]] = []
    with threads(plan.threads):
        real = activations(scratch, held_out=plan.held_out)
        # 512 directions in 128 dimensions, 16 a row: four times as many as the rows are wide, and all to be found.
        truth = planted(128, 512, 16, n=60_000, held_out=plan.held_out)
        for data, k in (*((real, k) for k in plan.k), (truth, 16)):
            penalised = data is real and k == max(plan.k)  # their L0 is not k's to say: once is enough
            kinds = [kind for kind in plan.kinds if kind in BY_K or penalised]
            for seed in plan.seeds:
                rows += _compare(_sides(drivers, kinds), data, k, seed, plan)
    return rows


def _sides(drivers: Sequence[Driver], kinds: Sequence[Kind]) -> list[Side]:
    return [
        Side(driver, kind, recipe) for kind in kinds for driver in drivers for recipe in driver.recipes.get(kind, ())
    ]


def _compare(sides: Sequence[Side], data: Rows, k: int, seed: int, plan: Plan) -> list[dict[str, object]]:
    for side in sides:
        _warm(side, data, k, plan)
    rows = [_learn(side, data, k, seed, plan.steps, plan, "steps") for side in sides]
    others = [row["seconds"] for row in rows if row["side"] != OURS and row["kind"] in BY_K]
    if not plan.equal_time or not others:
        return rows
    # The time in which the fastest peer takes its steps: nobody gets more of it than a peer's user already spends.
    budget = min(others)
    for side, row in zip(sides, list(rows), strict=True):
        if side.kind in BY_K:
            steps = max(50, round(plan.steps * budget / row["seconds"]))
            rows.append(_learn(side, data, k, seed, steps, plan, "time"))
    return rows


def _warm(side: Side, data: Rows, k: int, plan: Plan) -> None:
    """A few steps of a run that is thrown away: what a process does once (loading, compiling) is nobody's step."""
    run = side.driver.build(Task(side.kind, data.d_in, plan.d_sae, k, plan.batch, 100, data.train, recipe=side.recipe))
    with run.around():
        for _ in range(3):
            run.step(data.train[: plan.batch])
    run.close()


def _learn(side: Side, data: Rows, k: int, seed: int, steps: int, plan: Plan, equal: str) -> dict[str, object]:
    what = f"{side.name} {side.kind} {side.recipe}, {data.name}, k {k}, {steps} steps"
    print(f"quality, equal {equal}: {what}", flush=True)
    task = Task(side.kind, data.d_in, plan.d_sae, k, plan.batch, steps, data.train, seed, side.recipe)
    started = time.perf_counter()
    run = side.driver.build(task)
    start_seconds = time.perf_counter() - started
    order = batches(data.train, plan.batch, steps, seed=seed)
    seconds = 0.0
    with run.around():
        for index in order:
            batch = data.train[index]
            started = time.perf_counter()
            run.step(batch)
            seconds += time.perf_counter() - started
    judged = judge(run.coder(), data)
    run.close()
    return {
        "data": data.name,
        "how": data.how,
        "equal": equal,
        "side": side.name,
        "kind": side.kind,
        "recipe": side.recipe,
        "k": k,
        "d_sae": plan.d_sae,
        "batch": plan.batch,
        "steps": steps,
        "seed": seed,
        "threads": plan.threads,
        "start_seconds": round(start_seconds, 3),
        "seconds": round(seconds, 3),
        **asdict(judged),
    }


@dataclass(frozen=True)
class Judgement:
    """What held-out rows say of a dictionary; recovery is None where no truth is known."""

    fvu: float
    l0: float
    dead: float
    mean_max_cosine: float | None = None
    recovered: float | None = None


@torch.no_grad()
def judge(coder: Coder, data: Rows) -> Judgement:
    """Judge a dictionary on the held-out rows."""
    sums = ReconstructionSums(data.d_in)
    active, fires = 0, torch.zeros(len(coder.directions), dtype=torch.bool)
    for rows in data.held_out.split(2000):
        codes = coder.encode(rows)
        sums.add(rows, coder.decode(codes))
        active += int((codes != 0).sum())
        fires |= (codes != 0).any(0)
    found = _recovery(coder.directions, data.truth) if data.truth is not None else (None, None)
    return Judgement(1 - sums.explained_variance, active / len(data.held_out), 1 - float(fires.float().mean()), *found)


def _recovery(directions: Tensor, truth: Tensor) -> tuple[float, float]:
    """Mean over true directions of the largest cosine with a learned one; share for which it is at least FOUND."""
    best = (normalize(truth, dim=1) @ normalize(directions, dim=1).T).amax(1)
    return float(best.mean()), float((best >= FOUND).float().mean())
