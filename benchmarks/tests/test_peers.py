"""Every side that is installed learns when it is driven as the benchmarks drive it."""
# ruff: noqa: D103

from dataclasses import replace

import pytest
import torch

from benchmarks.data import Rows, batches, planted
from benchmarks.peers import Driver, Task, drivers
from benchmarks.quality import judge

STEPS, BATCH, K = 120, 256, 8
DRIVERS = {driver.name: driver for driver in drivers()}
CASES = [(name, kind) for name, driver in DRIVERS.items() for kind in driver.recipes]


@pytest.fixture(scope="module")
def data() -> Rows:
    return planted(32, 64, 4, n=8192, held_out=1024)


def _task(kind: str, data: Rows) -> Task:
    return Task(kind, data.d_in, 128, K, BATCH, STEPS, data.train)


def _learn(driver: Driver, task: Task, data: Rows) -> tuple[float, float, float]:
    """Unexplained variance after five steps and at the end, and how far the decoder moved."""
    run = driver.build(task)
    fvu, directions = [], run.coder().directions.clone() if driver.name != "Overcomplete" else None
    for number, index in enumerate(batches(data.train, BATCH, STEPS), start=1):
        with run.around():
            run.step(data.train[index])
        if number in {5, STEPS}:
            fvu.append(judge(run.coder(), data).fvu)
        if number == 5 and directions is None:
            directions = run.coder().directions.clone()
    moved = float((run.coder().directions - directions).abs().max())
    run.close()
    return fvu[0], fvu[-1], moved


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_side_learns_and_moves_its_weights(name: str, kind: str, data: Rows) -> None:
    early, late, moved = _learn(DRIVERS[name], replace(_task(kind, data), recipe="tuned"), data)
    assert late < 0.9 * early
    assert moved > 1e-3


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] == "topk"])
def test_topk_codes_have_k_active_latents(name: str, kind: str, data: Rows) -> None:
    run = DRIVERS[name].build(_task(kind, data))
    with run.around():
        run.step(data.train[:BATCH])
    codes = run.coder().encode(data.held_out)
    run.close()
    assert codes.shape == (len(data.held_out), 128)
    assert int((codes != 0).sum(1).max()) == K


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] in {"relu", "jumprelu"}])
def test_a_sparse_start_is_sparse(name: str, kind: str, data: Rows) -> None:
    run = DRIVERS[name].build(replace(_task(kind, data), start_l0=10.0))
    l0 = float((run.coder().encode(data.train[:512]) != 0).sum()) / 512
    run.close()
    assert 8 < l0 <= 10.5


@pytest.mark.parametrize("name", DRIVERS)
def test_what_a_loop_sets_does_not_leak(name: str, data: Rows) -> None:
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()
    run = DRIVERS[name].build(_task("topk", data))
    with run.around():
        run.step(data.train[:BATCH])
    assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_float32_matmul_precision())
    run.close()
    assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_float32_matmul_precision())


def test_a_loop_that_ends_says_so(data: Rows) -> None:
    run = DRIVERS["unweave"].build(replace(_task("topk", data), steps=1))
    run.step(data.train[:BATCH])
    with pytest.raises(RuntimeError, match="has ended"):
        run.step(data.train[:BATCH])
