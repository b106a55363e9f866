"""Digits: 1,797 small handwritten digits that come with scikit-learn."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unweave.core.registry import register
from unweave.datasets.base import DatasetConfig, MemoryImages, Split
from unweave.datasets.splits import check_test_share, stratified_split

_DARKEST = 16


@register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(DatasetConfig):
    """Handwritten digits, 1,797 grey images of 8×8 in ten classes; nothing to download.

    The original values 0..16 (pixels set in each 4×4 block of a 32×32 bitmap) are scaled to bytes: round(v · 255 / 16).

    Shapes: pixels [n, 1, 8, 8]. There is no official split of this subset: see `test_share`.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998 (its test set), as `sklearn.datasets.load_digits`.
    """

    test_share: float = 0.2
    "share of each class that is kept for the test split"

    def __post_init__(self) -> None:
        check_test_share(self.test_share)

    def load(self, split: Split, data_dir: Path | None = None) -> MemoryImages:
        """Read one split; `data_dir` is not needed.

        Args:
            split: train or test.
            data_dir: not looked at, the images come with scikit-learn.
        """
        from sklearn.datasets import load_digits  # noqa: PLC0415 - a second of imports that only this data set needs

        bundled = load_digits()
        labels = bundled.target.astype(np.int64)
        pixels = np.rint(bundled.images * (255 / _DARKEST)).astype(np.uint8)[:, None]
        train, test = stratified_split(labels, self.test_share)
        index = train if split == "train" else test
        names = [str(name) for name in bundled.target_names]
        return MemoryImages(torch.from_numpy(pixels[index]), torch.from_numpy(labels[index]), names)
