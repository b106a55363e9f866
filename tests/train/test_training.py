import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.train import Training


def _rates(training: Training, total: int | None, per_epoch: int | None = None, steps: int = 0) -> list[float]:
    return [training.rate(step, total, per_epoch) for step in range(total or steps)]


def test_warmup_and_decay_by_hand() -> None:
    training = Training(learning_rate=1.0, warmup_share=0.2, decay_share=0.4)
    assert _rates(training, 10) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_no_warmup_and_no_decay_are_constant() -> None:
    assert _rates(Training(learning_rate=0.3, warmup_share=0, decay_share=0), 7) == [0.3] * 7
    assert _rates(Training(learning_rate=0.3, schedule="constant"), 7) == [0.3] * 7


def test_steps_of_epochs_by_hand() -> None:
    training = Training(learning_rate=1.0, schedule="step", step_epochs=2, step_factor=0.5)
    assert _rates(training, 14, per_epoch=3) == [1] * 6 + [0.5] * 6 + [0.25] * 2


@pytest.mark.parametrize("schedule", ["constant", "step", "warmup-decay"])
def test_where_the_end_is_not_known_the_rate_stays(schedule: Any) -> None:
    assert set(_rates(Training(schedule=schedule), None, steps=5000)) == {Training().learning_rate}


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_rises_stays_and_falls_and_is_never_zero(total: int, first: float, second: float) -> None:
    warmup, decay = min(first, 1 - second), second
    if warmup + decay > 1:
        return
    rates = _rates(Training(learning_rate=2.0, warmup_share=warmup, decay_share=decay), total)
    assert all(0 < rate <= 2.0 for rate in rates)
    signs = [math.copysign(1, b - a) for a, b in itertools.pairwise(rates) if abs(b - a) > 1e-12]
    assert signs == sorted(signs, reverse=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("steps", 0),
        ("batch_size", 0),
        ("batch_size", -3),
        ("step_epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("clip_norm", 0.0),
        ("clip_norm", -1.0),
        ("step_factor", 0.0),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("warmup_share", -0.1),
        ("decay_share", 1.1),
        ("dead_window", math.nan),
        ("dead_firings", -1),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        Training(**{field: value})


def test_warmup_and_decay_must_fit_into_the_run() -> None:
    with pytest.raises(InputError, match="together exceed the run"):
        Training(warmup_share=0.6, decay_share=0.6)
