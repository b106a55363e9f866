"""Check of the sparse step: gradients from active entries alone are those of the dense loss."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary, Losses, Step
from unweave.dictionaries.kernels import Kernels, choose_kernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.testing.dictionaries.compare import expect_close
from unweave.testing.dictionaries.subject import STEPPED, Subject
from unweave.testing.dictionaries.variants import variants
from unweave.testing.report import expect, not_claimed

_WITHIN = 1e-5
_DRAWS = 8
_CANCELLED = 0.05
_STALE = 7.0


def check_sparse_step(subject: Subject) -> None:
    """`gradients` writes what `loss(...).total.backward()` does, to 1e-5 of each parameter's largest gradient.

    A parameter whose gradient is below a twentieth of the largest of all is measured by that twentieth: where terms
    cancel, what is left is rounding. Tried with the kernels of this machine and with those in plain torch, on eight
    draws of options and shapes, with and without dead latents, at the start of a run and at its end, onto gradients
    left over from another batch. The losses that it reports must be the same, and carry no graph.
    """
    if not subject.started().has_sparse_step():
        not_claimed("it has no sparse step")
    with choose_kernels(torch.device("cpu")) as fastest, TorchKernels() as plain:
        for case, rows in _cases(subject):
            for kernels in (fastest, plain):
                for dead in (None, torch.arange(case.moved().d_sae) % 2 == 0):
                    for index in (0, STEPPED):
                        _expect_same(case, rows, Step(index, STEPPED, dead), kernels)


def _cases(subject: Subject) -> Iterator[tuple[Subject, Float[Tensor, "b d_in"]]]:
    generator = torch_generator(0, "sparse step")
    for config in variants(subject.config, _DRAWS):
        d_in, rows = (int(torch.randint(1, most, (), generator=generator)) for most in (33, 65))
        case = Subject(config, d_in=d_in, claims=subject.claims)
        yield case, case.held_out[:rows]


def _expect_same(subject: Subject, rows: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> None:
    sparse, dense = subject.moved(), subject.moved()
    where = f"{kernels.name} kernels, {len(rows)} rows, step {step.index} of {step.total}, {subject}"
    if step.dead is not None:
        where = f"half of all latents dead, {where}"
    if not sparse.has_sparse_step():
        return  # these options have none
    expected = dense.loss(rows, step)
    expected.total.backward()
    for parameter in sparse.parameters():
        parameter.grad = torch.full_like(parameter, _STALE)
    found = sparse.gradients(rows, step, kernels)
    _expect_same_losses(found, expected, where)
    largest = max(float(other.grad.abs().max()) for other in dense.parameters() if other.grad is not None)
    for (name, parameter), other in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        expect(parameter.grad is not None and other.grad is not None, f"{name} gets no gradient: {where}")
        assert parameter.grad is not None
        assert other.grad is not None
        what = f"sparse gradient of {name}, beside the dense ({where})"
        expect_close(parameter.grad, other.grad, what, within=_WITHIN, least_scale=_CANCELLED * largest)
    _expect_same_buffers(sparse, dense, where)


def _expect_same_losses(found: Losses, expected: Losses, where: str) -> None:
    names = set(found.parts), set(expected.parts)
    expect(names[0] == names[1], f"parts of the sparse loss are {names[0]}, of the dense {names[1]}: {where}")
    for name, part in expected.parts.items():
        expect(not found.parts[name].requires_grad, f"the sparse part {name!r} carries a graph: {where}")
        expect_close(found.parts[name], part, f"sparse part {name!r} of the loss, beside the dense ({where})")
    expect_close(found.error, expected.error, f"sparse error, beside the dense ({where})")
    expect(
        found.rows == expected.rows, f"the sparse loss is of {found.rows} rows, the dense of {expected.rows}: {where}"
    )
    same = torch.equal(found.fired.double(), expected.fired.double())
    expect(same, f"fired of the sparse step differs from the dense in {_differing(found, expected)} latents: {where}")


def _differing(found: Losses, expected: Losses) -> int:
    return int((found.fired.double() != expected.fired.double()).sum())


def _expect_same_buffers(sparse: Dictionary, dense: Dictionary, where: str) -> None:
    """What a loss moves beside gradients, a running threshold say, moves alike."""
    others = dict(dense.named_buffers())
    for name, buffer in sparse.named_buffers():
        expect_close(buffer, others[name], f"{name} after the sparse step, beside the dense ({where})", within=_WITHIN)
