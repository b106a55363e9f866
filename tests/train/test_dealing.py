"""Which dictionaries share a pass, and which rank trains them."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unweave.capture import StreamedRows
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError, StoreError
from unweave.core.runtime import Runtime
from unweave.dictionaries.topk import TopK
from unweave.store.rows import RowSource, TensorRows
from unweave.train import Job, Training, several
from unweave.train.batches import Batches
from unweave.train.dealing import Group, Waiting, collected, deal

ROOM = 1 << 30


class Agreed(Ranks):
    """A rank whose others say the same."""

    def from_first(self, value: Any) -> Any:
        """What it would be given."""
        return value


def _waiting(source: RowSource, sizes: list[int], **training: Any) -> list[Waiting]:
    made = []
    for number, size in enumerate(sizes):
        how = Training(**{"epochs": 2, "batch_size": 10, **training})
        job = Job(dictionary=TopK(d_sae=size, k=1), training=how)
        made.append(Waiting.of(number, job, Batches(source, None, how, 0)))
    return made


def _numbers(groups: list[Group]) -> list[list[int]]:
    return [[one.number for one in group.own] for group in groups]


def test_every_job_goes_to_one_rank_the_longest_first_to_who_has_least(rows: Tensor) -> None:
    waiting = _waiting(TensorRows(rows), [8, 64, 16, 24, 40])
    found = [deal(waiting, Agreed(rank, 2), at_once=ROOM, window=ROOM) for rank in (0, 1)]
    assert found[0][1] == found[1][1] == {1: 0, 4: 1, 3: 1, 2: 0, 0: 1}  # 64 + 16 and 40 + 24 + 8
    assert _numbers(found[0][0]) == [[1, 2]]
    assert _numbers(found[1][0]) == [[0, 3, 4]]


def test_more_ranks_than_jobs_leave_some_without(rows: Tensor) -> None:
    waiting = _waiting(TensorRows(rows), [8, 8])
    assert [_numbers(deal(waiting, Agreed(rank, 3), at_once=ROOM, window=ROOM)[0]) for rank in range(3)] == [
        [[0]],
        [[1]],
        [],
    ]


def _stream() -> StreamedRows:
    images = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    return StreamedRows(nn.Sequential(nn.Flatten()), images, at="0", batch_size=8)


def test_a_stream_is_read_by_all_from_the_first_row_that_anybody_needs_to_the_last() -> None:
    stream = _stream()
    waiting = [*_waiting(stream, [8, 8]), *_waiting(stream, [8], epochs=3)]
    waiting = [Waiting(number, one.job, one.batches, one.steps, one.bytes) for number, one in enumerate(waiting)]
    for rank in range(4):
        (group,), owners = deal(waiting, Agreed(rank, 4), at_once=ROOM, window=ROOM)
        assert sorted(owners.values()) == [0, 1, 2]
        assert len(group.own) == (rank < 3), "rank 3 has nothing to train, and reads"
        assert [(way.first, way.last) for way in group.ways] == [(0, 80), (0, 80), (0, 120)]


def test_a_checkpoint_that_only_rank_0_sees_is_no_place_to_begin() -> None:
    one = _waiting(_stream(), [8])[0]
    Group([one], 0, steps={0: 3}).check(one, 3)
    with pytest.raises(StoreError, match="all ranks need the same files"):
        Group([one], 0, steps={0: 4}).check(one, 3)


def test_several_are_not_split(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "ranks", lambda: Ranks(0, 2))
    job = Job(dictionary=TopK(d_sae=8, k=1), training=Training())
    with pytest.raises(InputError, match="each is trained whole by one rank"):
        several.train_several(rows, [job], runtime=Runtime(device="cpu", split_latents=True))


def test_one_process_has_all_and_hands_nothing_over(rows: Tensor) -> None:
    waiting = _waiting(TensorRows(rows), [8, 8])
    groups, owners = deal(waiting, Ranks(), at_once=ROOM, window=ROOM)
    assert (_numbers(groups), owners) == ([[0, 1]], {})
    made: Mapping[int, Any] = {0: TopK(d_sae=8, k=1).build(8)}
    assert collected(made, {}, waiting, Runtime(device="cpu"), Ranks()) == made
