"""The suite as a whole: what it reports, and how it is used from pytest and without it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unweave.testing
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.neurons import Neurons
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK, TopKSAE
from unweave.testing import CHECKS, Claims, ConformanceError, DictionaryConformance, check_dictionary, example
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import NotClaimedError, expect, name_of, not_claimed, run_checks


class TestTopK(DictionaryConformance):
    config = TopK(d_sae=40, k=2)
    d_in = 12


class TestNeurons(DictionaryConformance):
    config = Neurons()


class Broken(TopKSAE):
    def rescale(self, factor: float) -> None:
        raise RuntimeError("a crash")


class BrokenTopK(TopK):
    def build(self, d_in: int) -> Broken:
        return Broken(self, d_in)


def test_a_report_names_every_check_and_why_it_does_not_apply() -> None:
    report = check_dictionary(Neurons(k=3))
    assert [result.check for result in report.results] == [name_of(check) for check in CHECKS]
    assert report.failures == ()
    outcomes = {result.check: (result.outcome, result.message) for result in report.results}
    assert outcomes["saving"] == ("holds", "")
    assert outcomes["planted"] == ("not claimed", "finds_planted is False")
    assert str(report).startswith(f"Neurons(k=3): 0 of {len(CHECKS)} checks fail\n  holds       configuration (")
    assert "\n      finds_planted is False\n" in str(report)


def test_every_failure_is_told_and_a_crash_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_that_it_holds(subject: str) -> None:
        expect(subject == "s", "no")

    def check_that_fails(subject: str) -> None:
        expect(subject == "t", f"{subject} is not t")

    def check_that_crashes(subject: str) -> None:
        torch.zeros(2)[subject == "s", 5]

    def check_of_nothing(subject: str) -> None:
        not_claimed("nothing to see")

    with pytest.raises(ConformanceError) as caught:
        run_checks("it", "s", [check_that_crashes, check_that_it_holds, check_that_fails, check_of_nothing])
    results = caught.value.report.results
    assert [result.outcome for result in results] == ["fails", "holds", "fails", "not claimed"]
    assert [result.check for result in caught.value.report.failures] == ["that-crashes", "that-fails"]
    assert results[0].message.startswith("IndexError: ")
    assert "test_suite.py:" in results[0].message
    assert "it: 2 of 4 checks fail" in str(caught.value)
    assert "s is not t" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_a_broken_kind_fails_as_a_whole_and_check_by_check() -> None:
    config = BrokenTopK(d_sae=32, k=3)
    with pytest.raises(ConformanceError, match="RuntimeError: a crash"):
        check_dictionary(config)

    class Suite(DictionaryConformance):
        pass

    Suite.config = config
    outcomes = {}
    for check in CHECKS:
        try:
            Suite().test_conformance(check)
        except NotClaimedError:
            outcomes[name_of(check)] = "skipped"
        except (AssertionError, RuntimeError) as error:
            outcomes[name_of(check)] = str(error)
    assert outcomes["rescale"] == "a crash"


def test_subclasses_share_no_subject() -> None:
    class First(DictionaryConformance):
        config = Neurons(k=2)

    class Second(First):
        config = Neurons(k=3)

    for suite in (First, Second, First):
        suite().test_conformance(lambda _: None)
    assert First._subject is not None
    assert Second._subject is not None
    assert (First._subject.config, Second._subject.config) == (Neurons(k=2), Neurons(k=3))


def test_it_needs_no_pytest() -> None:
    folder = Path(unweave.testing.__file__).parent
    for path in folder.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pytest", path.read_text(encoding="utf-8"), re.MULTILINE), path


class Declared(TopKSAE):
    finds_planted = False
    planted_bound = 0.7
    straight_through = frozenset({"b_enc"})
    linear_decoder = False
    non_negative_rows = True


class DeclaredTopK(TopK):
    sparsity = ("aux", (1.0, 2.0))

    def build(self, d_in: int) -> Declared:
        return Declared(self, d_in)

    @classmethod
    def example(cls) -> "DeclaredTopK":
        return cls(d_sae=7, k=2)


def test_claims_are_what_the_classes_declare() -> None:
    assert Claims.of(TopK(d_sae=32, k=3), 16) == Claims(sparsity=("k", (1, 3, 6)))
    assert Claims.of(ReLU(d_sae=32), 16).finds_planted
    assert not Claims.of(Neurons(), 16).finds_planted
    assert Claims.of(DeclaredTopK(), 16) == Claims(
        finds_planted=False,
        planted_bound=0.7,
        straight_through=frozenset({"b_enc"}),
        linear_decoder=False,
        non_negative_rows=True,
        sparsity=("aux", (1.0, 2.0)),
    )


@pytest.mark.parametrize("sparsity", [("no_such_option", (1, 2)), ("k", (3,))])
def test_a_knob_that_is_none_is_refused(sparsity: tuple[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeclaredTopK, "sparsity", sparsity)
    with pytest.raises(InputError, match=r"DeclaredTopK\.sparsity must be an option and at least two values"):
        Claims.of(DeclaredTopK(), 16)


def test_examples_are_small_or_the_kind_s_own() -> None:
    assert example(TopK) == TopK(d_sae=32, k=3)
    assert example(ReLU) == ReLU(d_sae=32)
    assert example(Neurons) == Neurons(k=3)
    assert example(DeclaredTopK) == DeclaredTopK(d_sae=7, k=2)


@pytest.mark.parametrize(
    ("config", "d_in", "features", "l0"),
    [
        (TopK(d_sae=32, k=3), 16, 24, 3),
        (TopK(d_sae=32, k=9), 16, 24, 6),
        (ReLU(d_sae=100), 16, 24, 3),
        (TopK(d_sae=10, k=1), 16, 7, 1),
        (Neurons(), 1, 1, 1),
    ],
)
def test_the_planted_rows_fit_the_dictionary(config: DictionaryConfig, d_in: int, features: int, l0: int) -> None:
    subject = Subject(config, d_in=d_in)
    assert subject.planted.directions.shape == (features, d_in)
    assert int((subject.planted.codes[0] != 0).sum()) == l0
    assert subject.planted.rows.shape == (4096, d_in)
    assert subject.held_out.shape == (64, d_in)


def test_kinds_for_rows_without_negative_entries_get_such_rows() -> None:
    subject = Subject(Neurons(), claims=replace(Claims.of(Neurons(), 16), non_negative_rows=True))
    assert subject.planted.rows.min() >= 0
    assert Subject(Neurons()).planted.rows.min() < 0


def test_copies_are_apart() -> None:
    subject = Subject(TopK(d_sae=32, k=3))
    first, again = subject.stepped(), subject.stepped()
    first.rescale(2.0)
    assert not torch.equal(first.state_dict()["b_dec"], again.state_dict()["b_dec"])
    assert first.training
    assert all(parameter.requires_grad for parameter in first.parameters())
    moved, start = subject.moved(), subject.started()
    assert all(not torch.equal(a, b) for a, b in zip(moved.parameters(), start.parameters(), strict=True))


def _norms(dictionary: Dictionary) -> Tensor:
    return dictionary.directions().norm(dim=1)


def test_every_state_keeps_the_rules_of_its_kind() -> None:
    subject = Subject(TopK(d_sae=32, k=3))
    for dictionary in (subject.started(), subject.moved(), subject.stepped(), subject.trained):
        torch.testing.assert_close(_norms(dictionary), torch.ones(32))
