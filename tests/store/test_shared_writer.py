import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.store.shared_writer import Dealing


@given(st.integers(1, 100), st.integers(1, 9))
def test_parts_follow_each_other_and_grow_up_to_a_shard(batches: int, size: int) -> None:
    dealing = Dealing(batches, size)
    parts = [dealing.part(number) for number in range(20 * size * batches)]
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(parts))
    lengths = [len(list(group)) for _, group in itertools.groupby(parts)][:-1]
    assert max(lengths) <= batches
    assert {dealing.owner(number) for number in range(size)} == set(range(size)) or batches == 1


def test_late_parts_are_shards() -> None:
    dealing = Dealing(10, 2)
    late = range(1000, 2000)
    assert all(dealing.part(number) - dealing.part(1000) == (number - 1000) // 10 for number in late)


@pytest.mark.parametrize("batches", [1, 3, 64, 100_000])
def test_a_small_store_keeps_every_rank_busy(batches: int) -> None:
    dealing = Dealing(batches, 3)
    counts = [sum(dealing.owner(number) == rank for number in range(100)) for rank in range(3)]
    assert max(counts) <= 2 * min(counts)
