from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.neurons import NeuronDictionary
from unweave.dictionaries.topk import TopKSAE
from unweave.store.rows import RowSource
from unweave.testing.dictionaries.edges import check_broken_rows, check_edges
from unweave.testing.dictionaries.subject import Subject

Make = Callable[..., Subject]


def _all(rows: RowSource) -> Tensor:
    return next(rows.blocks(rows.n))


class DividesBySpread(NeuronDictionary):
    """Rows without variance make it NaN."""

    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Tensor:
        spread = _all(rows).std(0, unbiased=False)
        return super().fit_directions(rows, generator) * torch.where(spread > 0, 1.0, torch.nan)[None]


class CrashesOnFewRows(NeuronDictionary):
    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Tensor:
        torch.linalg.cholesky(_all(rows).T @ _all(rows))
        return super().fit_directions(rows, generator)


class RefusesFewRows(NeuronDictionary):
    """Not broken: it says what it cannot do."""

    def fit_directions(self, rows: RowSource, generator: torch.Generator) -> Tensor:
        if rows.n < 10 or rows.moments().variance == 0:
            raise InputError(f"needs 10 rows that differ, got {rows.n}")
        return super().fit_directions(rows, generator)


class ForgetsConstantRows(NeuronDictionary):
    """Rows that are all the same come back as zero: finite, and wrong."""

    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, generator)
        if rows.moments().variance == 0:
            self.mean.zero_()
            self.V.zero_()


class TakesAnything(NeuronDictionary):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        self.V.copy_(self.fit_directions(rows, generator))


class CrashesOnNaN(NeuronDictionary):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        torch.linalg.eigh(_all(rows).T @ _all(rows))
        super().prepare(rows, generator)


class OverflowsEarly(TopKSAE):
    """Finite weights, and codes that overflow on long rows."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) * (1 + (0 * x.square().square().square()).sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("check", "broken", "says"),
    [
        (check_edges, DividesBySpread, "one row: (V|gain) holds NaN or Inf"),
        (check_edges, CrashesOnFewRows, "one row: _LinAlgError"),
        (check_edges, ForgetsConstantRows, "one row: 1 of the rows' squared length is missed"),
        (check_edges, OverflowsEarly, "huge rows: codes hold NaN or Inf"),
        (check_broken_rows, TakesAnything, "rows with nan are taken without a word"),
        (check_broken_rows, CrashesOnNaN, "rows with nan: _LinAlgError"),
    ],
)
def test_what_is_broken_is_found(
    check: Callable[[Subject], None], broken: type[Dictionary], says: str, hasty: Make
) -> None:
    with pytest.raises(AssertionError, match=says):
        check(hasty(broken))


@pytest.mark.parametrize("right", [TopKSAE, NeuronDictionary, RefusesFewRows])
def test_what_is_right_passes(right: type[Dictionary], hasty: Make) -> None:
    check_edges(hasty(right))
    check_broken_rows(hasty(right))
