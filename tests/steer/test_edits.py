"""Edits: what users write, what it does to codes, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unweave.core.errors import InputError
from unweave.steer.edits import OPS, Edit, apply_edits, read_edits

CODES = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 0.0, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("edits", "after"),
    [
        ({}, CODES.tolist()),
        ({1: ("set", 5.0)}, [[0, 5, 2, 3], [4, 5, 0.5, 0]]),
        ({0: ("add", 1.5)}, [[1.5, 1, 2, 3], [5.5, 0, 0.5, 0]]),
        ({3: ("scale", -2)}, [[0, 1, 2, -6], [4, 0, 0.5, 0]]),
        ({2: ("clamp", 1, 1.5)}, [[0, 1, 1.5, 3], [4, 0, 1, 0]]),
        ({2: ("clamp", 1, math.inf)}, [[0, 1, 2, 3], [4, 0, 1, 0]]),
        ({0: "ablate", 3: ("ablate",)}, [[0, 1, 2, 0], [0, 0, 0.5, 0]]),
        ({2: "keep"}, [[0, 0, 2, 0], [0, 0, 0.5, 0]]),
        ({2: "keep", 0: ("add", 1)}, [[1, 0, 2, 0], [5, 0, 0.5, 0]]),
        ({np.int64(1): ["set", np.float32(2)]}, [[0, 2, 2, 3], [4, 2, 0.5, 0]]),
        ({1: Edit(1, "ablate")}, [[0, 0, 2, 3], [4, 0, 0.5, 0]]),
    ],
)
def test_edits_by_hand(edits, after):
    before = CODES.clone()
    assert apply_edits(CODES, read_edits(edits, 4)).tolist() == after
    assert torch.equal(CODES, before), "the codes were written into"


def test_no_edit_gives_the_codes_themselves():
    assert apply_edits(CODES, ()) is CODES


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({1: "ablat"}, r"latent 1: there is no edit 'ablat': did you mean 'ablate'"),
        ({1: ("sett", 3)}, r"did you mean 'set'"),
        ({4: "ablate"}, r"no latent 4: the dictionary has 4, counted from 0"),
        ({-1: "ablate"}, r"no latent -1"),
        ({True: "ablate"}, r"named by its number, from 0 to 3; got True"),
        ({"1": "ablate"}, r"named by its number, from 0 to 3; got '1'"),
        ({1: ("set", math.nan)}, r"latent 1: set got NaN"),
        ({1: ("clamp", 0, math.nan)}, r"clamp got NaN"),
        ({1: ("add", math.inf)}, r"add needs a finite value, got inf"),
        ({1: ("clamp", 2, 1)}, r"clamp needs lower ≤ upper, got 2 and 1"),
        ({1: "set"}, r'set takes one value, got 0: write \("set", 5.0\)'),
        ({1: ("clamp", 1)}, r"clamp takes two values, got 1"),
        ({1: ("ablate", 0)}, r"ablate takes no value, got 1"),
        ({1: 5.0}, r"latent 1: 5.0 is no edit; write one of"),
        ({1: ()}, r"latent 1: \(\) is no edit"),
        ({1: None}, r"is no edit"),
        ({1: ("set", "5")}, r"set takes numbers, got '5'"),
        ({1: ("set", True)}, r"set takes numbers, got True"),
        ({1: Edit(2, "ablate")}, r"latent 1: its edit is of latent 2"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(edits, message):
    with pytest.raises(InputError, match=message):
        read_edits(edits, 4)


def test_edits_that_are_no_mapping_are_refused():
    undecorated = getattr(read_edits, "__wrapped__", read_edits)
    with pytest.raises(InputError, match="must map latents to operations"):
        undecorated([(1, "ablate")], 4)


def an_edit(latent: int) -> st.SearchStrategy:
    values = st.floats(-5, 5, width=32)
    return st.one_of(
        st.sampled_from(["ablate", "keep"]),
        st.tuples(st.sampled_from(["set", "add", "scale"]), values),
        st.tuples(values, values).map(lambda two: ("clamp", min(two), max(two))),
    )


@given(
    edits=st.dictionaries(st.integers(0, 4), an_edit(0), max_size=5),
    codes=st.lists(st.lists(st.floats(0, 9, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
)
def test_every_edit_is_what_its_formula_says(edits, codes):
    keep = "keep" in edits.values()
    formula = {
        "set": lambda f, v: v,
        "add": lambda f, v: f + v,
        "scale": lambda f, v: f * v,
        "clamp": lambda f, low, high: min(max(f, low), high),
        "ablate": lambda f: 0.0,
        "keep": lambda f: f,
    }
    expected = [
        [
            formula[edits[j] if isinstance(edits[j], str) else edits[j][0]](
                f, *(() if isinstance(edits[j], str) else edits[j][1:])
            )
            if j in edits
            else (0.0 if keep else f)
            for j, f in enumerate(row)
        ]
        for row in codes
    ]
    after = apply_edits(torch.tensor(codes), read_edits(edits, 5))
    torch.testing.assert_close(after, torch.tensor(expected, dtype=torch.float32))


def test_gradients_flow_where_the_code_still_counts():
    codes = torch.full((1, 6), 2.0, requires_grad=True)
    edits = {0: ("add", 1), 1: ("set", 1), 2: ("scale", 3), 3: ("clamp", 0, 1), 4: "ablate"}
    apply_edits(codes, read_edits(edits, 6)).sum().backward()
    assert codes.grad.tolist() == [[1, 0, 3, 0, 0, 1]]


def test_every_operation_has_a_name_and_a_text():
    assert set(OPS) == {"add", "set", "scale", "clamp", "ablate", "keep"}
    assert str(Edit(3, "clamp", (0.0, 2.5))) == "clamp 0 2.5"
    assert str(Edit(3, "ablate")) == "ablate"


def test_codes_of_any_shape():
    codes = torch.rand(2, 3, 4)
    after = apply_edits(codes, read_edits({1: ("set", 7)}, 4))
    assert torch.equal(after[..., 1], torch.full((2, 3), 7.0))
    assert torch.equal(after[..., [0, 2, 3]], codes[..., [0, 2, 3]])
