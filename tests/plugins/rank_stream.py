"""What the tests of streams run, alone and as several processes: `python rank_stream.py FOLDER [CASE]`."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unweave.capture import StreamedRows, stream_several
from unweave.core.distributed import ranks
from unweave.dictionaries.topk import TopK
from unweave.train import Training, train

IMAGES = torch.rand(101, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 20, (53, 5), generator=torch.Generator().manual_seed(2))
LENGTHS = torch.randint(1, 6, (53,), generator=torch.Generator().manual_seed(3))


class Counted(nn.Module):
    """A network of two hook points, "inner.0" and "inner.3", that counts how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
        self.runs = 0
        _drawn(self)

    def forward(self, images: Tensor) -> Tensor:
        """Answers [b, 5]."""
        self.runs += 1
        answers: Tensor = self.inner(images)
        return answers


class Reads(nn.Module):
    """A network of tokens, one row for each that is real."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.runs = 0
        _drawn(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings [b, t, 6]."""
        self.runs += 1
        assert attention_mask.shape == input_ids.shape
        rows: Tensor = self.embedding(input_ids)
        return rows


def _drawn(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


class InOrder:
    """Batches of uneven sizes that have no indices."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from IMAGES.split([7, 1, 30, 30, 30, 3])


class Texts:
    """Batches of texts of several lengths."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for tokens, length in zip(TOKENS.split(8), LENGTHS.split(8), strict=True):
            yield {"input_ids": tokens, "attention_mask": (torch.arange(5) < length[:, None]).long()}


CASES = ("one row an example", "many rows an example", "no indices", "texts", "two points", "sample", "from the middle")


def _streams(case: str, model: nn.Module) -> dict[str, StreamedRows]:
    small = {"batch_size": 8, "buffer_bytes": 3000, "sample_rows": 50, "seed": 3}
    if case == "texts":
        return {"embedding": StreamedRows(model, Texts(), at="embedding", rows="position", **small)}
    if case == "two points":
        return stream_several(model, IMAGES, at=["inner.0", "inner.3"], **small)
    examples = InOrder() if case == "no indices" else IMAGES
    at, rows = ("inner.0", "position") if case in ("many rows an example", "no indices") else ("inner.3", "flatten")
    return {at: StreamedRows(model, examples, at=at, rows=rows, **small)}


def seen(case: str) -> tuple[dict[str, Tensor], int]:
    """The rows of two epochs, and how often the model ran for them."""
    model = Reads() if case == "texts" else Counted()
    streams = _streams(case, model)
    found = {f"{name} sample": torch.cat(list(one.sample().blocks(100))) for name, one in streams.items()}
    if case == "sample":
        return found, model.runs
    (first, *_) = streams.values()
    if case == "from the middle":
        found["rows"] = torch.cat(list(islice(first.batches(7, epoch=1, skip=9), 2)))
        return found, 0  # how far it ran ahead is chance
    for epoch in (0, 1):
        for chunk in first.stream.chunks(dict.fromkeys(streams, 7), epoch=epoch, start={}):
            for name, rows in chunk.items():
                found[f"{epoch} {name}"] = torch.cat([found.get(f"{epoch} {name}", rows[:0]), rows])
    found["in order"] = torch.cat(list(first.blocks(50)))
    return found, model.runs


def trained(out: Path | None = None) -> Tensor:
    """The decoder that a stream's rows taught; fewer steps than the pass has."""
    rows = StreamedRows(Counted(), IMAGES, at="inner.0", rows="position", batch_size=8, buffer_bytes=3000, seed=3)
    training = Training(steps=33, batch_size=50, encoder_precision="float32")
    return train(rows, TopK(d_sae=16, k=2), training, out=out).state_dict()["W_dec"]


def main(folder: Path) -> None:
    """Write what this rank saw."""
    here = ranks()
    tensors, runs = {}, {}
    for case in CASES:
        found, runs[case] = seen(case)
        tensors |= {f"{case}: {name}": value.contiguous() for name, value in found.items()}
    tensors["trained"] = trained(folder / "sae")
    tensors |= {f"runs: {case}": torch.tensor(number) for case, number in runs.items()}
    save_file(tensors, folder / f"{here.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    ranks().close()
