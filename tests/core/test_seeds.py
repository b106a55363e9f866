import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.seeds import derive_seed, numpy_generator, torch_generator


def test_a_seed_stays_what_it_was() -> None:
    # Results that were published with a seed must come out again.
    assert derive_seed(0, "weights") == 116264663811037623


@given(st.integers(), st.text())
def test_a_seed_has_63_bits(seed: int, purpose: str) -> None:
    assert 0 <= derive_seed(seed, purpose) < 2**63


def test_the_same_purpose_gives_the_same_numbers() -> None:
    first, second = (torch.rand(4, generator=torch_generator(1, "noise", 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert np.array_equal(numpy_generator(1, "noise").random(4), numpy_generator(1, "noise").random(4))


def test_different_seeds_and_purposes_give_different_streams() -> None:
    named = [(0,), (1,), (0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a", "a"), (0, 1, "a")]
    assert len({derive_seed(*names) for names in named}) == len(named)


def test_the_parts_of_a_purpose_are_kept_apart() -> None:
    assert derive_seed(0, "a/b") != derive_seed(0, "a", "b")
    assert derive_seed(0, "a", 1) != derive_seed(0, "a", "1")
    assert derive_seed(0, "a'", "b") != derive_seed(0, "a", "'b")


def test_streams_of_two_purposes_are_uncorrelated() -> None:
    n = 10_000
    first, second = (torch.randn(n, generator=torch_generator(0, purpose)).numpy() for purpose in ("a", "b"))
    # Under independence the correlation has standard deviation 1 / sqrt(n); this is five of them.
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / n**0.5


def test_drawing_leaves_the_process_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_generator(0, "weights"))
    assert torch.equal(torch.get_rng_state(), before)
