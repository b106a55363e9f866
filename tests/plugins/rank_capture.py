"""What the capture tests run, alone and as several processes: `python rank_capture.py FOLDER`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from unweave.capture import capture
from unweave.core.distributed import ranks
from unweave.datasets.digits import Digits

IMAGES = torch.rand(101, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(101) % 7


def network() -> nn.Sequential:
    """Two hook points of different widths."""
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layers


def stream() -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that come once, of uneven sizes."""
    yield from zip(IMAGES.split([7, 1, 30, 30, 30, 3]), LABELS.split([7, 1, 30, 30, 30, 3]), strict=True)


def captured(folder: Path) -> None:
    model = network()
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=9)
    capture(model, IMAGES, at="3", labels=LABELS, batch_size=4, shard_bytes=200, out=folder / "many shards")
    capture(model, IMAGES, at="3", labels=LABELS, batch_size=4, out=folder / "one shard")
    capture(
        model,
        IMAGES,
        at="0",
        rows="position",
        batch_size=10,
        shard_bytes=1 << 12,
        dtype="float16",
        out=folder / "places",
    )
    capture(model, IMAGES, at=["0", "3"], batch_size=10, shard_bytes=1 << 11, out=folder / "two points")
    capture(model, loader, at="3", shard_bytes=200, out=folder / "loader")
    capture(model, stream(), at="3", shard_bytes=300, out=folder / "stream")
    capture(model, IMAGES[:1], at="3", out=folder / "one row")
    capture(nn.Sequential(nn.Flatten()), Digits().load("test", None), at="0", batch_size=64, out=folder / "images")


if __name__ == "__main__":
    captured(Path(sys.argv[1]))
    ranks().close()
