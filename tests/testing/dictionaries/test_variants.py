from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.testing.dictionaries.variants import variants


def test_the_first_is_as_given_and_sizes_stay() -> None:
    config = ReLU(d_sae=32)
    drawn = variants(config, 30)
    assert drawn[0] == config
    assert {variant.d_sae for variant in drawn} == {32}
    assert {variant.decoder_norm for variant in drawn} == {"unit", "free"}
    assert {variant.weigh_by_norm for variant in drawn} == {True, False}
    assert {variant.l1 for variant in drawn} == {0.5, 1.0, 2.0}
    assert {variant.aux for variant in drawn} == {0.0, 0.5}
    assert {variant.resample for variant in drawn} == {None, 0.5}


def test_draws_follow_their_seed() -> None:
    config = ReLU(d_sae=32)
    assert variants(config, 5) == variants(config, 5)
    assert variants(config, 5) != variants(config, 5, seed=1)


def test_options_that_a_kind_refuses_are_drawn_again() -> None:
    drawn = variants(TopK(d_sae=32, k=3), 20)
    assert len(drawn) == 20
    assert {variant.k_start for variant in drawn} == {1.0, 2.0}  # it must be at least 1
    assert len({str(variant) for variant in drawn}) > 10


def test_what_is_fixed_is_fixed_and_what_is_not_there_is_left_out() -> None:
    assert all(variant.l1 == 7 for variant in variants(ReLU(d_sae=32), 10, l1=7.0))
    assert variants(PCA(k=3), 2, l1=7.0) == [PCA(k=3), PCA(k=3)]
