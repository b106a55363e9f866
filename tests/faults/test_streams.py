"""Rows that are computed while they are read, from models and image files that go wrong in the middle of a pass."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faulting import ERROR, RIGHT
from faulting.stages import ALWAYS
from PIL import Image
from torch import Tensor, nn

from unweave.capture import StreamedRows, capture
from unweave.core.errors import InputError
from unweave.datasets import image_folder
from unweave.datasets.image_folder import ImageFolder
from unweave.dictionaries.topk import TopK
from unweave.store.drafts import is_unfinished
from unweave.train import Job, Training, train, train_several

Tally = Callable[[str], None]
EXAMPLES = torch.randn(240, 6, generator=torch.Generator().manual_seed(0))
CONFIG = TopK(d_sae=8, k=2)


class Failing(nn.Module):
    """Gives each example as it is, two rows of width 3; from one example on, does what it is told to it."""

    def __init__(self, then: Callable[[Tensor], Tensor], after: int = 0) -> None:
        super().__init__()
        self.hidden, self.seen, self._then, self._after = nn.Identity(), 0, then, after

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.hidden((self._then(x) if self._after and self.seen > self._after else x).reshape(len(x), 2, -1))


def _raises(_: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available")


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "raises": (_raises, r"failed on a batch of 20.*RuntimeError: no kernel image"),
    "NaN": (lambda x: x * math.nan, "NaN or Inf.*example"),
    "Inf": (lambda x: x / 0, "NaN or Inf.*example"),
    "another width": (lambda x: x[:, :4], "rows of width 2 after rows of width 3"),
    "a width that would spread": (lambda x: x[:, :2], "rows of width 1 after rows of width 3"),
    "fewer rows": (lambda x: x[:10], "examples"),
}
MOMENTS = {"the first pass": 260, "the second": 420}  # examples: 100 for the sample, then 240 a pass
BRIEF = Training(steps=24, batch_size=32)  # 768 rows, 480 of them in the first pass


def streamed(model: nn.Module) -> StreamedRows:
    return StreamedRows(
        model, EXAMPLES, at="hidden", rows="position", batch_size=20, buffer_bytes=6 * 40 * 3 * 4, sample_rows=100
    )


@pytest.fixture(scope="module")
def right() -> Tensor:
    return train(streamed(Failing(_raises)), CONFIG, BRIEF).state_dict()["W_dec"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_goes_wrong_in_the_middle_of_a_training(
    wrong: str, moment: str, right: Tensor, tmp_path: Path, tally: Tally
) -> None:
    then, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        train(streamed(Failing(then, MOMENTS[moment])), CONFIG, BRIEF, out=tmp_path / "sae", runtime=ALWAYS)
    assert not (tmp_path / "sae").exists()
    tally(ERROR)
    goes_on = train(streamed(Failing(then)), CONFIG, BRIEF, out=tmp_path / "sae", runtime=ALWAYS)
    assert torch.equal(goes_on.state_dict()["W_dec"], right)
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]
    tally(RIGHT)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_goes_wrong_before_a_training(wrong: str, tally: Tally) -> None:
    then, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        streamed(Failing(then, 50)).sample()
    tally(ERROR)


def test_several_that_share_the_passes_of_a_model_that_goes_wrong(right: Tensor, tmp_path: Path, tally: Tally) -> None:
    jobs = [Job(dictionary=CONFIG, training=BRIEF, out=tmp_path / name) for name in ("one", "two")]
    with pytest.raises(InputError, match="no kernel image"):
        train_several(streamed(Failing(_raises, 300)), jobs, runtime=ALWAYS)
    tally(ERROR)
    for made in train_several(streamed(Failing(_raises)), jobs, runtime=ALWAYS):
        assert not isinstance(made, InputError)
        assert torch.equal(made.state_dict()["W_dec"], right)
        tally(RIGHT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 noisy images of two classes."""
    drawn = np.random.default_rng(0)
    for number in range(48):
        path = tmp_path / "images" / ("odd" if number % 2 else "even") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _text(path: Path) -> None:
    path.write_text("no image any more")


def _closed(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {"cut": _cut, "text": _text, "gone": Path.unlink, "a folder": _closed}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_that_cannot_be_read_in_the_middle_of_a_pass(
    folder: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Its header was right when the folder was opened; pixels are read batch by batch."""
    monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 0)
    data, net = (
        ImageFolder(size=8, test_share=0.1).load("train", folder),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
    )
    victim = folder / "odd" / "31.png"
    content = victim.read_bytes()
    DAMAGES[damage](victim)
    with pytest.raises(InputError, match=r"odd/31\.png"):
        capture(net, data, at="1", batch_size=8, shard_bytes=64, out=tmp_path / "rows")
    assert all(path.name == "images" or is_unfinished(path) for path in tmp_path.iterdir())
    tally(ERROR)
    with pytest.raises(InputError, match=r"odd/31\.png"):
        train(StreamedRows(net, data, at="1", batch_size=8, sample_rows=8), CONFIG, BRIEF, out=tmp_path / "sae")
    assert all(path.name == "images" or is_unfinished(path) for path in tmp_path.iterdir())
    tally(ERROR)
    if victim.is_dir():
        victim.rmdir()
    victim.write_bytes(content)
    assert capture(net, data, at="1", batch_size=8, out=tmp_path / "rows").n == len(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "rows"]
    tally(RIGHT)
