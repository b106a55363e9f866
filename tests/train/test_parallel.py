from pathlib import Path

import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.core.distributed import ALONE, Ranks
from unweave.store import order
from unweave.store.rows import RowSource, TensorRows
from unweave.train.batches import Batches
from unweave.train.parallel import Shares
from unweave.train.training import Training


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(41, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "in memory"])
def test_the_shares_of_all_ranks_make_the_batches(
    rows: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool, shuffle: bool
) -> None:
    monkeypatch.setattr(order, "BLOCK_BYTES", 48)
    source: RowSource = TensorRows(rows)
    if stored:
        source = capture(nn.Sequential(nn.Identity()), rows.split(8), at="0", out=tmp_path / "rows")
    batches = Batches(source, None, Training(epochs=2, batch_size=8, shuffle=shuffle), seed=3)
    for step in (0, 2, 7):  # the sixth and last batch of an epoch has one row, for three ranks
        whole = list(Shares(batches, step, ALONE))
        readers = [Shares(batches, step, Ranks(rank, 3)) for rank in range(3)]
        parts = [list(reader) for reader in readers]
        assert len(whole) == 12 - step
        for batch, mine in zip(whole, zip(*parts, strict=True), strict=True):
            told = [reader.whole() for reader in readers]
            assert {one.rows for one in told} == {len(batch)}
            counted = [part for part, one in zip(mine, told, strict=True) if one.part > 0]
            assert torch.equal(torch.cat(counted), batch)
            assert [round(one.part * len(batch)) for one in told if one.part > 0] == [len(part) for part in counted]
            assert all(len(part) == 1 for part, one in zip(mine, told, strict=True) if one.part == 0)
