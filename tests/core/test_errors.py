from unweave.core.errors import did_you_mean


def test_close_names_are_offered() -> None:
    assert did_you_mean("topk", ["relu", "topk2", "pca"]) == "did you mean 'topk2'?"


def test_all_names_are_offered_where_none_is_close() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "choose from: a, b"


def test_a_long_list_is_cut() -> None:
    names = [f"{letter}{letter}" for letter in "abcdefghijklmnopqrstuv"]
    assert did_you_mean("zzz", names).endswith("ss, tt and 2 more")


def test_no_names_at_all() -> None:
    assert did_you_mean("zzz", []) == "there are none"
