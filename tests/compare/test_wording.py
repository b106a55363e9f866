"""The sentence follows from the numbers."""

import numpy as np

from unweave.compare.wording import sentence


def values(observed: list[float], **nulls: list[float]) -> dict[str, np.ndarray]:
    return {"observed": np.array(observed), **{name: np.array(numbers) for name, numbers in nulls.items()}}


def told(p: float = 0.01, **measures: dict[str, np.ndarray]) -> str:
    pairs = len(next(iter(measures.values()))["observed"])
    return sentence(measures, {name: np.full(pairs, p) for name in measures}, pairs=pairs)


def test_a_measure_above_every_null_is_evidence_and_one_below_is_none():
    assert told(
        linear_cka=values([0.9, 0.8], untrained=[0.5, 0.4], noise=[0.1, 0.1]),
        sorted_cosine=values([0.9, 0.9], untrained=[0.95, 0.95], noise=[0.8, 0.8]),
    ) == (
        "The instances share what training made, beyond what their architecture gives: linear CKA 0.85 (untrained "
        "0.45) lies above every null in each of 2 pairs; sorted cosine 0.90 (untrained 0.95) does not, and so says "
        "nothing of what is shared."
    )


def test_one_pair_below_is_enough_to_doubt():
    text = told(rsa=values([0.9, 0.3], untrained=[0.5, 0.4]))
    assert text.startswith("Nothing shows that the instances share more")


def test_chance_is_enough_to_doubt():
    assert told(p=0.051, rsa=values([0.9], shuffled=[0.1])).startswith("Nothing shows")
    assert told(p=0.05, rsa=values([0.9], shuffled=[0.1])).startswith("The instances share")


def test_without_untrained_networks_training_gets_no_credit():
    text = told(rsa=values([0.9], shuffled=[0.1]))
    assert "what an architecture gives untrained" not in text
    assert "(how much of it an architecture gives untrained was not measured)" in text


def test_the_clearest_are_named_and_the_others_counted():
    names = ("linear_cka", "rsa", "procrustes", "matched_r", "ridge_r2")
    text = told(**{name: values([0.5 + i / 10], noise=[0.0]) for i, name in enumerate(names)})
    assert "ridge R² 0.90 (noise 0.00), matched |r| 0.80 (noise 0.00), Procrustes 0.70 (noise 0.00) and 2 more" in text


def test_no_negative_zero():
    assert "-0.00" not in told(rsa=values([-0.001], noise=[-0.002]))
