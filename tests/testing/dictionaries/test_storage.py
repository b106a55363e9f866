from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.topk import TopKSAE
from unweave.store.artifact import Draft
from unweave.store.rows import RowSource
from unweave.testing.dictionaries.storage import check_saving, check_state
from unweave.testing.dictionaries.subject import Subject

Make = Callable[..., Subject]


@pytest.fixture
def registered(hasty: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A subject whose kind is registered while the test runs: only such a one can be read back."""

    def make(what: type[Dictionary]) -> Subject:
        subject = hasty(what)
        kind: type[DictionaryConfig] = type(subject.config)
        monkeypatch.setattr(kind, "kind", "broken")
        monkeypatch.setitem(kind.registry._members, "broken", kind)
        return subject

    return make


class PlainAttribute(TopKSAE):
    """What it needs is a plain attribute, which `state_dict` does not know."""

    gain = 1.0

    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        super().prepare(rows, generator)
        self.gain = 1.5

    def encode(self, x: Tensor) -> Tensor:
        return self.gain * super().encode(x)


class HalfPrecision(TopKSAE):
    def write(self, draft: Draft) -> None:
        with torch.no_grad():
            self.W_enc.copy_(self.W_enc.half().float())
        super().write(draft)


class ForgetsItsHook(TopKSAE):
    def write(self, draft: Draft) -> None:
        super().write(draft)
        draft.details["hook_name"] = ""


class KeepsNoHistory(TopKSAE):
    def write(self, draft: Draft) -> None:
        self.history, kept = {}, self.history
        super().write(draft)
        self.history = kept


class WritesSomethingElse(TopKSAE):
    def write(self, draft: Draft) -> None:
        super().write(draft)
        (draft.folder / "extra.pt").write_bytes(b"x")


def test_what_the_state_does_not_hold_is_found(hasty: Make) -> None:
    check_state(hasty(TopKSAE))
    with pytest.raises(AssertionError, match="codes of a dictionary with the same state"):
        check_state(hasty(PlainAttribute))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (PlainAttribute, "codes after reading back"),
        (ForgetsItsHook, "hook_name was 'layer.3' and comes back as ''"),
        (KeepsNoHistory, "history was .* and comes back as {}"),
        (WritesSomethingElse, "it writes extra.pt; weights are safetensors"),
    ],
)
def test_what_is_not_kept_is_found(broken: type[Dictionary], says: str, registered: Make) -> None:
    with pytest.raises(AssertionError, match=says):
        check_saving(registered(broken))


def test_what_is_right_passes(registered: Make) -> None:
    check_saving(registered(TopKSAE))


def test_saving_must_not_change_what_is_saved(registered: Make) -> None:
    with pytest.raises(AssertionError, match="W_enc: not the same bits"):
        check_saving(registered(HalfPrecision))
