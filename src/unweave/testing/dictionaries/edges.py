"""Checks at the edges: few rows, narrow rows, rows without variance, rows that are not finite."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary
from unweave.store.rows import TensorRows
from unweave.testing.dictionaries.compare import expect_finite
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import expect

_ROWS = 40
_STEPS = 12
_UNEXPLAINED = 0.05


def check_edges(subject: Subject) -> None:
    """At the edges there is a right result or an `InputError`: never a crash, never NaN.

    A right result is finite and has no negative codes. Where all rows are the same (and not zero) their mean says all,
    so it must give them back but for 5 % of their squared length.
    """
    rows = subject.planted.rows[:_ROWS]
    d_in = subject.d_in
    narrow = Subject(subject.config, d_in=1, claims=subject.claims)
    few = max(1, d_in // 2)
    cases: dict[str, tuple[Subject, Float[Tensor, "n d"], int]] = {
        "rows of width 1": (narrow, narrow.planted.rows[:_ROWS], 16),
        "one row": (subject, rows[:1], 16),
        "two rows": (subject, rows[:2], 16),
        "rows that are all the same": (subject, rows[:1].repeat(_ROWS, 1), 16),
        "rows of zeros": (subject, torch.zeros_like(rows), 16),
        "batches larger than the data": (subject, rows, 10 * _ROWS),
        "tiny rows": (subject, 1e-15 * rows, 16),
        "huge rows": (subject, 1e15 * rows, 16),
    }
    for name, options in {
        "fewer latents than inputs": {"d_sae": few, "k": 1},
        "one latent": {"d_sae": 1, "k": 1},
        "k of all latents": {"k": subject.trained.d_sae},
    }.items():
        try:
            cases[name] = (subject.with_options(**options), rows, 16)
        except InputError:
            continue  # the kind refuses these options: an answer as well
    for name, (case, data, batch_size) in cases.items():
        _expect_answer(case, data, batch_size, name)


def _expect_answer(subject: Subject, rows: Float[Tensor, "n d"], batch_size: int, name: str) -> None:
    try:
        dictionary = subject.fit(rows, steps=_STEPS, batch_size=batch_size)
    except InputError as error:
        expect(bool(str(error)), f"{name}: an InputError without a message")
        return
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    _expect_right(dictionary, rows, name)


@torch.no_grad()
def _expect_right(dictionary: Dictionary, rows: Float[Tensor, "n d"], name: str) -> None:
    expect_finite(dictionary, name)
    codes, back = dictionary.encode(rows), dictionary(rows)
    expect(bool(torch.isfinite(codes).all()), f"{name}: codes hold NaN or Inf")
    expect(bool((codes >= 0).all()), f"{name}: codes are negative")
    expect(bool(torch.isfinite(back).all()), f"{name}: reconstructions hold NaN or Inf")
    if (rows == rows[0]).all() and rows.any():
        missed = float((rows - back).square().sum() / rows.square().sum())
        expect(missed <= _UNEXPLAINED, f"{name}: {missed:.3g} of the rows' squared length is missed")
    for column, values in dictionary.history.items():
        expect(all(math.isfinite(value) for value in values), f"{name}: {column} of the history holds NaN or Inf")


def check_broken_rows(subject: Subject) -> None:
    """Rows that hold NaN or Inf are refused with an `InputError`: by `train`, and by a `prepare` that is a fit."""
    for bad in (math.nan, math.inf):
        rows = subject.planted.rows[:_ROWS].clone()
        rows[7, 0] = bad
        _expect_refused(partial(subject.fit, rows, steps=_STEPS, batch_size=16), f"rows with {bad}")
        dictionary = subject.config.build(subject.d_in)
        if not dictionary.trained_by_gradient:
            fit = partial(dictionary.prepare, TensorRows(rows), torch_generator(0, "broken rows"))
            _expect_refused(fit, f"rows with {bad}")


def _expect_refused(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except InputError:
        return
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} are taken without a word")
