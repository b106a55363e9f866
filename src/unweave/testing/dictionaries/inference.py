"""Checks of a dictionary in use: codes of rows alone and together, the frozen copy, other units."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary
from unweave.testing.dictionaries.compare import CLOSE, expect_close, expect_same_bits, expect_same_state, mean_l0
from unweave.testing.dictionaries.subject import LAST, Subject
from unweave.testing.report import expect, not_claimed

_L0_WITHIN = 0.15
_FACTORS = (4.0, 0.25, 3.0)


def check_batch_independence(subject: Subject) -> None:
    """After `to_inference`, a row has the same code alone, in any batch, in any order, beside any other rows."""
    dictionary, rows = subject.trained, subject.held_out
    codes = dictionary.encode(rows)
    n = len(rows)
    batches = {
        "all rows in reverse": torch.arange(n).flip(0),
        "all rows shuffled": torch.randperm(n, generator=torch_generator(0, "order")),
        "the first 5 rows": torch.arange(5),
        "one row many times": torch.zeros(40, dtype=torch.long),
    }
    for name, order in batches.items():
        _expect_same_codes(dictionary.encode(rows[order]), codes[order], f"in a batch of {name}")
    for row in range(min(n, 12)):
        _expect_same_codes(dictionary.encode(rows[row : row + 1]), codes[row : row + 1], f"alone (row {row})")
    _expect_same_codes(dictionary.encode(rows[0]), codes[0], "alone, as a vector")
    loud = torch.cat([rows[:8], 100 * rows[8:]])
    _expect_same_codes(dictionary.encode(loud)[:8], codes[:8], "beside rows 100 times as long")


def _expect_same_codes(actual: Tensor, expected: Tensor, what: str) -> None:
    """Same values to float tolerance, and the same latents active but for values below that tolerance."""
    what = f"codes of rows {what}, beside their codes among all rows"
    least = CLOSE * float(expected.max())
    turned = ((actual > least) & (expected == 0)) | ((expected > least) & (actual == 0))
    expect(not turned.any(), f"{what}: other latents are active ({int(turned.sum())} entries)")
    expect_close(actual, expected, what)


def check_inference(subject: Subject) -> None:
    """`to_inference` gives a frozen copy that encodes as the dictionary does, and of which it is the copy itself.

    A dictionary that selects over the whole batch while it trains has no code of a row alone before. It must then be as
    sparse as in training, to 15 % of L0, and reconstruct as well, to 15 % of the variance left over plus 1 %.
    """
    dictionary, rows = subject.stepped(), subject.held_out
    dictionary.hook_name, dictionary.history = "layer.3", {"step": [1.0, 2.0], "loss": [0.5, 0.25]}
    frozen = dictionary.to_inference()
    expect(type(frozen) is type(dictionary), f"to_inference gives another class, {type(frozen).__name__}")
    expect(not frozen.training, "to_inference leaves it in training mode")
    learning = [name for name, parameter in frozen.named_parameters() if parameter.requires_grad]
    expect(not learning, f"to_inference leaves {', '.join(learning)} to be trained")
    kept = (frozen.hook_name, frozen.history) == (dictionary.hook_name, dictionary.history)
    expect(kept, "to_inference loses hook_name or history")
    again = frozen.to_inference()
    expect_same_state(again, frozen, "to_inference of what to_inference gave")
    expect_same_bits(again.encode(rows), frozen.encode(rows), "codes after a second to_inference")
    _expect_as_in_training(subject, dictionary, frozen)
    before = frozen.encode(rows)
    with torch.no_grad():
        for tensor in dictionary.state_dict().values():
            tensor.fill_(0.5 if tensor.is_floating_point() else 1)
    expect_same_bits(frozen.encode(rows), before, "codes of the frozen copy after the original was changed")


def _expect_as_in_training(subject: Subject, dictionary: Dictionary, frozen: Dictionary) -> None:
    rows = subject.planted.rows[:1024]
    dictionary = copy.deepcopy(dictionary)
    codes = dictionary.encode(rows).detach()
    alone = torch.cat([dictionary.encode(row[None]).detach() for row in rows[:8]])
    if not _selects_over_batch(alone, codes[:8]):
        expect_close(frozen.encode(rows), codes, "codes of the frozen copy, beside the trained dictionary's")
    if not dictionary.trained_by_gradient:
        return
    losses = dictionary.loss(rows, LAST)
    trained, used = float(losses.fired.sum()) / losses.rows, mean_l0(frozen.encode(rows))
    expect(
        abs(used - trained) <= _L0_WITHIN * trained,
        f"{used:.2f} latents are active in a row at inference, {trained:.2f} in training",
    )
    variance = float((rows - rows.mean(0)).square().sum())
    left_in_training = float(losses.error) * losses.rows / variance
    left = float((rows - frozen(rows)).square().sum()) / variance
    expect(
        left <= (1 + _L0_WITHIN) * left_in_training + 0.01,
        f"the variance left unexplained is {left:.4f} at inference, {left_in_training:.4f} in training",
    )


def _selects_over_batch(alone: Float[Tensor, "n d_sae"], among: Float[Tensor, "n d_sae"]) -> bool:
    return float((alone - among).abs().max()) > CLOSE * float(among.max())


def check_rescale(subject: Subject) -> None:
    """`rescale(c)` gives the dictionary of rows c times as long: codes and reconstructions are c times as large."""
    rows = subject.held_out
    if not subject.scales_inputs:
        try:
            subject.started().rescale(2.0)
        except InputError as error:
            expect("scale_inputs" in str(error), f"the refusal must say to train with scale_inputs off: {error}")
        not_claimed("it cannot be rescaled, and says so")
    for make in (subject.stepped, lambda: copy.deepcopy(subject.trained)):
        for factor in _FACTORS:
            dictionary = make()
            codes, back = dictionary.encode(rows).detach(), dictionary(rows).detach()
            dictionary.rescale(factor)
            what = f"after rescale({factor:g}), rows {factor:g} times as long"
            expect_close(dictionary.encode(rows * factor), factor * codes, f"{what}: codes")
            expect_close(dictionary(rows * factor), factor * back, f"{what}: reconstructions")
            dictionary.rescale(1 / factor)
            expect_close(dictionary.encode(rows), codes, f"codes after rescale({factor:g}) and back")
