"""A team's threads take every piece once, and leave nothing behind."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from unweave.dictionaries.kernels.team import Team


@pytest.fixture(params=[1, 2, 4])
def team(request: pytest.FixtureRequest) -> Iterator[Team]:
    before = torch.get_num_threads()
    made = Team(request.param)
    made.start()
    yield made
    made.stop()
    assert torch.get_num_threads() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unweave")]


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 100])
def test_results_come_in_the_order_of_the_pieces(team: Team, pieces: int) -> None:
    taken: list[int] = []

    def work(piece: int, _: int) -> int:
        taken.append(piece)
        time.sleep(0.001 * (piece % 3))  # so that pieces end in another order
        return piece**2

    assert team.each(pieces, work) == [piece**2 for piece in range(pieces)]
    assert sorted(taken) == list(range(pieces))


def test_no_two_pieces_at_a_time_have_the_same_worker(team: Team) -> None:
    """Workers have buffers of their own."""
    busy: set[int] = set()
    lock = threading.Lock()

    def work(_: int, worker: int) -> int:
        with lock:
            assert worker not in busy
            busy.add(worker)
        time.sleep(0.001)
        with lock:
            busy.remove(worker)
        return worker

    assert set(team.each(40, work)) <= set(range(team.size))


def test_pieces_really_are_worked_on_at_the_same_time() -> None:
    team = Team(3)
    meeting = threading.Barrier(3, timeout=120)
    team.start()
    try:
        assert sorted(team.each(3, lambda *_: meeting.wait())) == [0, 1, 2]
    finally:
        team.stop()


@pytest.mark.parametrize("bad", [0, 1, 7, 19])
def test_an_error_in_any_piece_is_raised_when_all_have_stopped(team: Team, bad: int) -> None:
    running: list[int] = []

    def work(piece: int, _: int) -> None:
        running.append(piece)
        try:
            if piece == bad:
                raise ValueError(f"piece {piece}")
            time.sleep(0.002)
        finally:
            running.remove(piece)

    with pytest.raises(ValueError, match=f"piece {bad}"):
        team.each(20, work)
    assert running == []
    assert team.each(5, lambda piece, _: piece) == [0, 1, 2, 3, 4]  # and it goes on


def test_errors_in_several_pieces_are_raised_when_all_have_stopped() -> None:
    """No thread may still write into a buffer when the caller goes on."""
    team, started = Team(4), threading.Barrier(4, timeout=120)
    finished: list[int] = []

    def work(piece: int, worker: int) -> None:
        if piece < 4:
            started.wait()  # each of the four has a piece
            if worker in (0, 1):
                raise ValueError("early")
        time.sleep(0.05)
        finished.append(piece)

    team.start()
    try:
        with pytest.raises(ValueError, match="early"):
            team.each(4, work)
        assert len(finished) == 2
    finally:
        team.stop()


def test_torch_has_one_thread_while_a_team_works() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        team = Team(2)
        team.start()
        assert torch.get_num_threads() == 1
        team.stop()
        assert torch.get_num_threads() == 3
        team.start()  # it can start again
        assert team.each(3, lambda piece, _: piece) == [0, 1, 2]
        team.stop()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [0, -3])
def test_there_is_always_one(size: int) -> None:
    assert Team(size).each(3, lambda piece, worker: (piece, worker)) == [(0, 0), (1, 0), (2, 0)]
