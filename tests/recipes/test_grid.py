import pytest

from unweave.core.errors import InputError
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.recipes.grid import Axis, grid, variants
from unweave.train import Training

TOPK, RELU = TopK(d_sae=64, k=8), ReLU(d_sae=64)
K, L1 = Axis("sae", "k", ("4", "16")), Axis("sae", "l1", ("0.1", "1", "3"))
RATE = Axis("training", "learning_rate", ("1e-3", "0.003"))


def test_the_grid_is_the_product_of_the_axes() -> None:
    found = grid([TOPK], Training(), [K, RATE])
    assert [(v.dictionary.k, v.training.learning_rate) for v in found] == [
        (4, 1e-3),
        (4, 3e-3),
        (16, 1e-3),
        (16, 3e-3),
    ]
    assert [v.name for v in found][1] == "k=4,learning_rate=0.003"
    assert all(v.dictionary.d_sae == 64 for v in found)


def test_each_kind_has_the_axes_that_it_has() -> None:
    found = grid([TOPK, RELU], Training(), [K, L1, Axis("sae", "d_sae", ("32",))])
    assert [v.name for v in found] == [
        "topk,k=4,d_sae=32",
        "topk,k=16,d_sae=32",
        "relu,l1=0.1,d_sae=32",
        "relu,l1=1.0,d_sae=32",
        "relu,l1=3.0,d_sae=32",
    ]
    assert found[3].options == {"kind": "relu", "l1": 1.0, "d_sae": 32}


def test_without_axes_there_is_what_was_given() -> None:
    assert [(v.name, v.dictionary) for v in grid([TOPK], Training(), [])] == [("", TOPK)]


def test_a_value_that_is_written_twice_counts_once() -> None:
    assert [v.name for v in grid([TOPK], Training(), [Axis("sae", "k", ("4", "04", "4"))])] == ["k=4"]


def test_values_are_read_as_their_fields() -> None:
    axes = [
        Axis("sae", "aux_k", ("none", "3")),
        Axis("sae", "init", ("tied", "data")),
        Axis("training", "shuffle", ("true", "false")),
    ]
    found = grid([TOPK], Training(), axes)
    assert {v.dictionary.aux_k for v in found} == {None, 3}
    assert {v.training.shuffle for v in found} == {True, False}
    assert found[0].name == "aux_k=None,init=tied,shuffle=True"


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        (Axis("sae", "k", ("4", "x")), r"^--sae\.k: .*integer.*'x'"),
        (Axis("sae", "kk", ("4",)), r"^--sae\.kk: the dictionary \(topk\) has no such option; did you mean 'k'"),
        (Axis("sae", "aux_k", ("0",)), r"^--sae\.aux-k 0: aux_k must be at least 1"),
        (Axis("sae", "init", ("tied", "wild")), r"^--sae\.init: .*'wild'"),
        (Axis("sae", "k", ("none",)), r"^--sae\.k: .*integer"),
        (Axis("training", "learning_rate", ("-1",)), r"^--training\.learning-rate -1: learning_rate must be above 0"),
        (Axis("training", "rate", ("1",)), r"^--training\.rate: its training has no such option"),
    ],
)
def test_an_error_names_the_flag(axis: Axis, words: str) -> None:
    with pytest.raises(InputError, match=words):
        grid([TOPK], Training(), [axis])


def test_a_combination_that_makes_no_sense_is_named() -> None:
    with pytest.raises(InputError, match=r"--sae\.k 16 --sae\.d-sae 8: k must lie between 1 and d_sae \(8\), got 16"):
        grid([TOPK], Training(), [K, Axis("sae", "d_sae", ("32", "8"))])


def test_variants_are_named_by_what_differs() -> None:
    found = variants([TopK(d_sae=64, k=k) for k in (4, 8)], [Training()])
    assert [v.name for v in found] == ["k=4", "k=8"]
    assert [v.name for v in variants([TOPK], [Training()])] == [""]
    several = variants([TOPK, RELU, ReLU(d_sae=64, l1=3.0)], [Training(epochs=2), Training(epochs=3)])
    assert [v.name for v in several][::2] == ["topk,epochs=2", "relu,l1=1.0,epochs=2", "relu,l1=3.0,epochs=2"]
    assert several[1].training == Training(epochs=3)


def test_variants_that_are_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="two of the dictionaries are the same"):
        variants([TOPK, RELU, TOPK], [Training()])
    with pytest.raises(InputError, match="two of the trainings are the same"):
        variants([TOPK], [Training(), Training()])
