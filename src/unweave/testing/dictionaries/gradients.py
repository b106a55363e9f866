"""Checks of the loss and of its gradients."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.testing.dictionaries.compare import expect_close
from unweave.testing.dictionaries.subject import LAST, Subject
from unweave.testing.dictionaries.variants import variants
from unweave.testing.report import expect, not_claimed

_DIFFERENCE = 1e-6
_SLOPE_WITHIN = 1e-5
_PROBES = 4
_VARIANTS = 6


def check_loss(subject: Subject) -> None:
    """The loss is the sum of finite parts and the mean over the batch's rows, and says truly what it came from."""
    dictionary, rows = subject.moved(), subject.held_out
    if not dictionary.trained_by_gradient:
        try:
            dictionary.loss(rows, LAST)
        except InputError:
            not_claimed("it is fitted in closed form and has no loss")
        raise AssertionError("trained_by_gradient is False, but it has a loss")
    losses = dictionary.loss(rows, LAST)
    for name, part in losses.parts.items():
        expect(bool(torch.isfinite(part)), f"the part {name!r} of the loss is {part.item()}")
    expect_close(losses.total, torch.stack(list(losses.parts.values())).sum(), "total, beside the sum of its parts")
    expect(not losses.error.requires_grad, "the error of a loss must be detached")
    expect(losses.rows == len(rows), f"the loss says it is of {losses.rows} rows; the batch has {len(rows)}")
    expect(losses.fired.shape == (dictionary.d_sae,), f"fired has shape {list(losses.fired.shape)}, not [d_sae]")
    alone = [subject.moved().loss(row[None], LAST).fired.double() for row in rows]
    if torch.equal(torch.stack(alone).sum(0), losses.fired.double()):  # it does not select over the whole batch
        _expect_codes_of(dictionary, rows, losses)
    thrice = subject.moved().loss(rows.repeat(3, 1), LAST).total
    expect_close(thrice, losses.total, "the loss of a batch that holds each row three times, beside each row once")


def _expect_codes_of(dictionary: Dictionary, rows: Float[Tensor, "b d_in"], losses: Losses) -> None:
    codes = dictionary.encode(rows).detach()
    fired = (codes != 0).sum(0).double()
    expect_close(losses.fired, fired, "fired at the last step, beside the active entries of encode")
    error = (rows - dictionary.decode(codes)).square().sum(1).mean()
    expect_close(losses.error, error, "error at the last step, beside the mean of ‖x − decode(encode(x))‖²")


def check_gradients(subject: Subject) -> None:
    """In float64 every parameter's gradient is the slope of the loss, found by small steps both ways.

    Parameters that `straight_through` names are exempt: their gradient must be there and finite. So is the loss on
    dead latents, which may hold part of itself fixed: there, all gradients must be finite. Tried with the options as
    they are and with five draws of others.
    """
    if not subject.started().trained_by_gradient:
        not_claimed("it is fitted in closed form and has no gradient")
    for config in variants(subject.config, _VARIANTS):
        _expect_slopes(Subject(config, d_in=subject.d_in, claims=subject.claims), as_given=config == subject.config)


def _expect_slopes(subject: Subject, *, as_given: bool) -> None:
    dictionary = subject.moved().double()
    names = dict(dictionary.named_parameters())
    exempt = subject.claims.straight_through
    expect(exempt <= set(names), f"straight_through names {sorted(exempt - set(names))}, which are no parameters")
    batch = subject.held_out[:9].double()
    start = copy.deepcopy(dictionary.state_dict())
    _gradients(dictionary, batch, Step(3, 10, torch.arange(dictionary.d_sae) % 3 == 0))
    dictionary.load_state_dict(start)
    fired, gradients = _gradients(dictionary, batch, Step(3, 10))
    if as_given:
        expect(fired, "no latent is active in the batch, so its gradients prove nothing")
    for name, gradient in gradients.items():
        if name in exempt:
            continue
        for direction in _directions(gradient, name):
            slope = _slope(dictionary, start, name, direction, batch)
            said, size = float((gradient * direction).sum()), float(gradient.norm())
            expect(
                abs(slope - said) <= _SLOPE_WITHIN * size + 1e-8,
                f"along a direction of {name} the loss rises by {slope:.6g} a unit, but the gradient says {said:.6g} "
                f"(its norm is {size:.3g}); if the gradient of {name} is estimated, or part of the loss held fixed, "
                f"declare it in straight_through. Options: {subject.config}",
            )


def _gradients(dictionary: Dictionary, batch: Float[Tensor, "b d_in"], step: Step) -> tuple[bool, dict[str, Tensor]]:
    """Whether anything fires, and the gradients by parameter."""
    dictionary.zero_grad(set_to_none=True)
    losses = dictionary.loss(batch, step)
    losses.total.backward()
    gradients = {}
    for name, parameter in dictionary.named_parameters():
        if parameter.grad is None:
            raise AssertionError(f"{name} gets no gradient: it should be a buffer, or take part in the loss")
        expect(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} holds NaN or Inf")
        gradients[name] = parameter.grad.clone()
    return bool((losses.fired != 0).any()), gradients


def _directions(gradient: Tensor, name: str) -> list[Tensor]:
    """Directions to step in: at random, and along the gradient."""
    generator = torch_generator(0, "directions", name)
    drawn = [torch.randn(gradient.shape, generator=generator, dtype=torch.float64) for _ in range(_PROBES)]
    if gradient.any():
        drawn.append(gradient)
    return [direction / direction.norm() for direction in drawn]


@torch.no_grad()
def _slope(
    dictionary: Dictionary, start: dict[str, Tensor], name: str, direction: Tensor, batch: Float[Tensor, "b d_in"]
) -> float:
    sides = []
    for side in (_DIFFERENCE, -_DIFFERENCE):
        dictionary.load_state_dict(start)  # a loss may move buffers, such as a running threshold
        dictionary.get_parameter(name).add_(direction, alpha=side)
        sides.append(float(dictionary.loss(batch, Step(3, 10)).total))
    return (sides[0] - sides[1]) / (2 * _DIFFERENCE)
