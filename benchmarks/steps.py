"""What a training step costs: every side's own trainer, in turns in one process, beside the floor of the machine.

As shipped: what a user gets who sets nothing. Tuned: what can be had from outside without touching a library, products
of float32 in bfloat16 (`torch.set_float32_matmul_precision("medium")`), SAELens also with its own autocast, in a
process whose allocator keeps its pages. Unweave is its default in both, which has the encoder's product, its one dense
product, in bfloat16, and is measured once more with that in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import torch

from benchmarks.data import Rows, activations, planted
from benchmarks.peers.protocol import KINDS, OURS, OURS_FULL, Driver, Kind, Run, Task
from benchmarks.timing import Side, Spread, matmul_precision, ratios, take_turns, threads

FLOOR = ("product", "product-bf16", "adam", "read")
_STEPS = 100_000  # of the pretended run: long enough for every schedule to be in its flat part
_SPARSE_L0 = 48.0  # where ReLU and JumpReLU are timed: below 64, and with room to drift


@dataclass(frozen=True)
class Shape:
    """A size of the problem."""

    name: str
    d_in: int
    d_sae: int
    k: int
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}"


A = tuple(Shape("A", 128, 1024, 32, batch) for batch in (64, 512, 4096))
B = Shape("B", 768, 8192, 32, 4096)
ON_GPU = (
    Shape("C", 768, 16_384, 32, 4096),
    Shape("D", 768, 65_536, 32, 4096),
    Shape("E", 2048, 65_536, 64, 4096),
    Shape("F", 2048, 131_072, 64, 4096),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    shapes: Sequence[Shape] = (*A, B)
    kinds: Sequence[Kind] = KINDS
    threads: Sequence[int] = (1, 2)
    rounds: int = 15
    sample_seconds: float = 0.25
    device: str = "cpu"
    most_seconds: float = 120.0
    "a case of one shape, kind and number of threads begins no new round after so long"


def measure(drivers: Sequence[Driver], plan: Plan, *, tuned: bool, scratch: Path) -> list[dict[str, object]]:
    """One row a side and case; see `_rows_of_case`."""
    rows: list[dict[str, object]] = []
    most = torch.get_num_threads()
    for shape in plan.shapes:
        data = _data(shape, scratch).to(plan.device)
        for kind in plan.kinds:
            for count in (count for count in plan.threads if count <= most):
                print(f"steps: {shape}, {kind}, {'tuned' if tuned else 'as shipped'}, threads {count}", flush=True)
                rows += _case(drivers, plan, shape, kind, data, count, tuned=tuned)
    return rows


def _data(shape: Shape, scratch: Path) -> Rows:
    """Activations of MNIST for A where they are at hand, a planted dictionary for B; a few batches are enough."""
    if shape.d_in == 128:
        return activations(scratch, n=4 * 4096, held_out=2048)
    return planted(shape.d_in, shape.d_sae, 16, n=2 * shape.batch, held_out=2048)


def _case(
    drivers: Sequence[Driver], plan: Plan, shape: Shape, kind: Kind, data: Rows, count: int, *, tuned: bool
) -> list[dict[str, object]]:
    sides: list[Side] = []
    runs: dict[str, Run] = {}
    with threads(count):
        for driver in drivers:
            for name, task, precision in _variants(driver, _task(shape, kind, data, plan.device), tuned=tuned):
                runs[name] = driver.build(task)
                sides.append(Side(name, _stepper(runs[name], data, shape), _around(runs[name], precision)))
        if OURS not in runs:
            print(f"  left out: Unweave has no {kind}")
            return []
        l0 = {name: _l0(run, data) for name, run in runs.items()}
        seconds = take_turns(
            [*sides, *_floor(shape, plan.device)],
            rounds=plan.rounds,
            sample_seconds=plan.sample_seconds,
            most_seconds=plan.most_seconds,
            warm=2,
        )
        l0_after = {name: _l0(run, data) for name, run in runs.items()}
    for run in runs.values():
        run.close()
    for product, name in (("product", "floor"), ("product-bf16", "floor-bf16")):
        parts = zip(*(seconds[part] for part in (product, "adam", "read")), strict=True)
        seconds[name] = [sum(times) for times in parts]
    times = {ours: ratios(seconds, ours) for ours in (OURS, OURS_FULL)}
    case = {"shape": asdict(shape), "kind": kind, "threads": count, "tuned": tuned, "data": data.how}
    if plan.device != "cpu":
        case["device"] = torch.cuda.get_device_name(plan.device)
    return [
        {
            **case,
            "side": name,
            "ms": asdict(Spread.of([1000 * value for value in values])),
            "times_unweave": asdict(Spread.of(times[OURS][name])) if name != OURS else None,
            "times_float32": asdict(Spread.of(times[OURS_FULL][name])) if name != OURS_FULL else None,
            "l0": [round(l0[name], 1), round(l0_after[name], 1)] if name in l0 else None,
        }
        for name, values in seconds.items()
    ]


def _task(shape: Shape, kind: Kind, data: Rows, device: str) -> Task:
    start = _SPARSE_L0 if kind in ("relu", "jumprelu") else None
    return Task(kind, shape.d_in, shape.d_sae, shape.k, shape.batch, _STEPS, data.train, start_l0=start, device=device)


def _variants(driver: Driver, task: Task, *, tuned: bool) -> Iterator[tuple[str, Task, str | None]]:
    """Name, task and forced precision of each way to run a side."""
    if task.kind not in driver.recipes:
        return
    if driver.name == OURS:
        yield OURS, task, None
        yield OURS_FULL, task.with_recipe("float32"), None
        return
    precision = "medium" if tuned else None
    yield driver.name, task, precision
    if "adam" in driver.recipes[task.kind]:
        yield f"{driver.name} (Adam)", task.with_recipe("adam"), precision
    if tuned and driver.has_amp:
        yield f"{driver.name} (amp)", task.with_amp(), precision


def _stepper(run: Run, data: Rows, shape: Shape) -> Callable[[], object]:
    pool = cycle(data.train[: len(data.train) // shape.batch * shape.batch].split(shape.batch)[:8])
    return lambda: run.step(next(pool))


def _around(run: Run, precision: str | None) -> Callable[[], AbstractContextManager[object]]:
    @contextmanager
    def around() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(run.around())
            if precision is not None:
                stack.enter_context(matmul_precision(precision))
            yield

    return around


def _floor(shape: Shape, device: str) -> list[Side]:
    """The parts that no step can do without: one encoder product, Adam over both matrices, one look at the result."""
    x, weight = torch.randn(shape.batch, shape.d_in, device=device), torch.randn(shape.d_in, shape.d_sae, device=device)
    x16, weight16 = x.bfloat16(), weight.bfloat16()
    pre, pre16 = x @ weight, x16 @ weight16
    parameters = torch.nn.Parameter(torch.randn(2 * weight.numel(), device=device))
    parameters.grad = torch.randn_like(parameters)
    adam = torch.optim.Adam([parameters], fused=True)
    runs: tuple[Callable[[], object], ...] = (
        lambda: torch.mm(x, weight, out=pre),
        lambda: torch.mm(x16, weight16, out=pre16),
        adam.step,
        pre.amax,
    )
    return [Side(name, run) for name, run in zip(FLOOR, runs, strict=True)]


@torch.no_grad()
def _l0(run: Run, data: Rows) -> float:
    try:
        codes = run.coder().encode(data.held_out[:1024])
    except AssertionError:  # Overcomplete's BatchTopK cannot encode before its first step
        return float("nan")
    return float((codes != 0).sum()) / len(codes)
