"""Checks of training: seeds, sparsity, and whether the truth is found."""

import itertools

import numpy as np
import torch
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.testing.dictionaries.compare import expect_same_state, mean_l0
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import expect, not_claimed

_SHORT = 20
_KNOB_STEPS = 150
_KNOB_RISES = 1.05


def check_seeds(subject: Subject) -> None:
    """The same seed gives the same weights, another one others (of a trained kind), and no global one is touched."""
    rows = subject.planted.rows[:512]
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - that it stays is the point
    first, again = (subject.fit(rows, seed=5, steps=_SHORT, batch_size=64) for _ in range(2))
    expect(torch.equal(torch.get_rng_state(), before[0]), "it draws from torch's global generator")
    expect(str(np.random.get_state()) == str(before[1]), "it draws from NumPy's global generator")  # noqa: NPY002
    expect_same_state(again, first, "trained twice with the same seed")
    if first.trained_by_gradient:
        other = subject.fit(rows, seed=6, steps=_SHORT, batch_size=64).state_dict()
        same = all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())
        expect(not same, "another seed gives the same weights")


def check_planted(subject: Subject) -> None:
    """A planted dictionary is found: the true directions' mean largest cosine with `directions()` is at least 0.9.

    Rows are sums of a few of many non-orthogonal directions with little noise, see `unweave.testing.planted`; training
    takes 300 steps of 128 rows. A kind that by its nature finds less may state a lower `planted_bound`. For scale, the
    message has what as many random directions score, and the L0, which an example may have far from the rows' own.
    """
    if not subject.claims.finds_planted:
        not_claimed("finds_planted is False")
    found, bound = subject.trained.directions(), subject.claims.planted_bound
    score = float(subject.planted.cosines(found).mean())
    by_chance = normalize(torch.randn(found.shape, generator=torch_generator(0, "chance")), dim=1)
    l0 = mean_l0(subject.trained.encode(subject.held_out))
    null = float(subject.planted.cosines(by_chance).mean())
    expect(
        score >= bound,
        f"of {len(subject.planted.directions)} true directions the mean largest cosine with one of the {len(found)} "
        f"latents is {score:.3f}, below {bound:g} (random directions: {null:.3f}), at an L0 of {l0:.2f}; a kind that "
        "cannot find them declares finds_planted = False",
    )


def check_sparsity(subject: Subject) -> None:
    """The option that moves L0 does so: each of its values in `sparsity` gives more active latents than the one before.

    150 steps each; L0 must rise by a twentieth at least from one to the next.
    """
    if subject.claims.sparsity is None:
        not_claimed("no option is declared in sparsity")
    name, values = subject.claims.sparsity
    found = []
    for value in values:
        try:
            trained = subject.fit(subject.planted.rows, steps=_KNOB_STEPS, **{name: value})
        except InputError as error:
            raise AssertionError(f"{name}={value!r}, which sparsity names, is refused: {error}") from error
        found.append(mean_l0(trained.encode(subject.held_out)))
    told = ", ".join(f"{name}={value!r}: {l0:.2f}" for value, l0 in zip(values, found, strict=True))
    rises = all(later > _KNOB_RISES * earlier for earlier, later in itertools.pairwise(found))
    expect(rises, f"L0 must rise along the values in sparsity; it is {told}")
