"""Adam over a dictionary: torch's own where rows are free, and rows of length 1 where the dictionary asks for them."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.kernels.compiled import CompiledKernels
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.sae import SAE, SAEConfig
from unweave.dictionaries.topk import TopK
from unweave.train.adam import Adam

BETAS = (0.9, 0.99)
KERNELS: dict[str, Callable[[], Kernels]] = {"torch": TorchKernels, "numba": CompiledKernels}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(config: SAEConfig, d_in: int, seed: int = 0) -> SAE:
    sae = config.build(d_in)
    for name, parameter in sae.named_parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=_generator(seed)))
        if name in sae.unit_rows():
            parameter.data.copy_(torch.nn.functional.normalize(parameter.data, dim=1))
    return sae


def _fill(sae: SAE, seed: int, scale: float = 1.0) -> None:
    """Gradients at random."""
    generator = _generator(seed)
    for parameter in sae.parameters():
        parameter.grad = scale * torch.empty_like(parameter).normal_(generator=generator)


def _whole(sae: SAE) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in sae.parameters() if parameter.grad is not None])


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return KERNELS[request.param]()


@pytest.mark.parametrize("config", [ReLU, JumpReLU, Gated])
@pytest.mark.parametrize(("d_sae", "d_in"), [(40, 5), (40, 40), (40, 70), (40, 1)])
def test_free_rows_take_torch_s_steps(kernels: Kernels, config: type[SAEConfig], d_sae: int, d_in: int) -> None:
    ours, theirs = (_drawn(config(d_sae=d_sae, decoder_norm="free"), d_in) for _ in range(2))
    optimizer = torch.optim.Adam(theirs.parameters(), betas=BETAS)
    adam = Adam(ours, BETAS, kernels)
    with kernels:
        for step, rate in enumerate((0.1, 0.03, 0.0, 0.01)):
            for sae in (ours, theirs):
                _fill(sae, step)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            adam.step(rate)
    assert adam.steps == 4
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), atol=1e-6, rtol=1e-5)


def test_unit_rows_move_at_a_rate_of_their_own(kernels: Kernels) -> None:
    moved = {}
    for rate in (1.0, 5.0):
        sae = _drawn(ReLU(d_sae=8, decoder_rate=rate), 6)
        before = {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}
        _fill(sae, 0)
        with kernels:
            Adam(sae, BETAS, kernels).step(1e-4)
        moved[rate] = {name: parameter.detach() - before[name] for name, parameter in sae.named_parameters()}
    for name, slow in moved[1.0].items():
        factor = 5.0 if name == "W_dec" else 1.0
        torch.testing.assert_close(moved[5.0][name], factor * slow, atol=2e-6, rtol=1e-2 if factor > 1 else 0)


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 1000), st.sampled_from(sorted(KERNELS)))
def test_what_lies_along_unit_rows_never_counts(d_in: int, d_sae: int, seed: int, name: str) -> None:
    """Of the gradient only what is orthogonal to a row reaches the moments; other parameters get all of theirs."""
    sae = _drawn(ReLU(d_sae=d_sae), d_in, seed)
    row, kernels = sae.W_dec.detach().clone(), KERNELS[name]()
    _fill(sae, seed)
    given_ = {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}
    adam = Adam(sae, (0.5, 0.5), kernels)
    with kernels:
        adam.step(0.1)
    state = adam.state()
    along = (given_["W_dec"] * row).sum(1, keepdim=True)
    expected = {**given_, "W_dec": given_["W_dec"] - along * row}
    for parameter, gradient in expected.items():
        torch.testing.assert_close(state[f"{parameter}.first"], 0.5 * gradient, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(state[f"{parameter}.second"], 0.5 * gradient**2, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close((state["W_dec.first"] * row).sum(1), torch.zeros(d_sae), atol=1e-6, rtol=0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(d_sae))


def test_rows_are_brought_back_to_length_one(kernels: Kernels) -> None:
    sae = _drawn(TopK(d_sae=8, k=2), 6)
    before = sae.W_dec.detach().clone()
    sae.W_dec.data *= torch.logspace(-15, 10, 8)[:, None]
    sae.W_dec.data[3] = 0
    _fill(sae, 0, scale=0.0)
    with kernels:
        Adam(sae, BETAS, kernels).step(0.1)
    kept = [0, 1, 2, 4, 5, 6, 7]
    torch.testing.assert_close(sae.W_dec.detach()[kept], before[kept])
    assert not sae.W_dec[3].any()  # there is no direction to keep


def test_free_rows_keep_their_length(kernels: Kernels) -> None:
    sae = _drawn(TopK(d_sae=8, k=2, decoder_norm="free"), 6)
    sae.W_dec.data *= torch.linspace(0, 9, 8)[:, None]
    before = {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}
    _fill(sae, 0, scale=0.0)
    with kernels:
        Adam(sae, BETAS, kernels).step(0.1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in sae.named_parameters())


def test_a_parameter_without_a_gradient_stays(kernels: Kernels) -> None:
    sae = _drawn(TopK(d_sae=8, k=2, decoder_norm="free"), 6)
    _fill(sae, 0)
    sae.b_enc.grad = None
    before = {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}
    with kernels:
        Adam(sae, BETAS, kernels).step(0.1)
    same = {name for name, parameter in sae.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {"b_enc"}


@pytest.mark.parametrize("norm", ["unit", "free"])
def test_clipping_is_of_the_whole_gradient_that_counts(kernels: Kernels, norm: str) -> None:
    """What lies along unit rows does not count, and is not there after."""
    sae = _drawn(ReLU(d_sae=8, decoder_norm=norm), 6)
    _fill(sae, 0)
    if norm == "unit":
        sae.W_dec.grad += 1e3 * sae.W_dec.detach()
        along = (sae.W_dec.grad * sae.W_dec.detach()).sum(1, keepdim=True)
        expected = _whole(sae) - torch.cat([p.flatten() for p in _spread(sae, along * sae.W_dec.detach())])
    else:
        expected = _whole(sae)
    adam = Adam(sae, BETAS, kernels)
    length = float(expected.norm())
    adam.clip(2 * length)
    torch.testing.assert_close(_whole(sae), expected, atol=1e-4, rtol=1e-4)
    adam.clip(0.25 * length)
    torch.testing.assert_close(_whole(sae), 0.25 * expected, atol=1e-4, rtol=1e-4)


def _spread(sae: SAE, decoder: Tensor) -> list[Tensor]:
    """`decoder` at the place of W_dec, zero elsewhere."""
    return [decoder if name == "W_dec" else torch.zeros_like(p) for name, p in sae.named_parameters()]


def _stepped(sae: SAE, kernels: Kernels) -> Adam:
    adam = Adam(sae, BETAS, kernels)
    with kernels:
        for step in range(3):
            _fill(sae, step)
            adam.step(0.1)
    return adam


@pytest.mark.parametrize("config", [ReLU(d_sae=8), JumpReLU(d_sae=8, target=2.0), Gated(d_sae=8)], ids=lambda c: c.kind)
@pytest.mark.parametrize("d_in", [6, pytest.param(8, id="as wide as there are latents")])
def test_moments_of_latents_are_forgotten_and_no_others(kernels: Kernels, config: SAEConfig, d_in: int) -> None:
    sae = _drawn(config, d_in)
    adam = _stepped(sae, kernels)
    before = {name: moment.clone() for name, moment in adam.state().items()}
    adam.forget(torch.tensor([1, 5]))
    kept = torch.ones(8, dtype=torch.bool)
    kept[[1, 5]] = False
    for name, moment in adam.state().items():
        parameter = name.partition(".")[0]
        expected = before[name].clone()
        if parameter == "W_enc":
            expected[:, ~kept] = 0
        elif parameter != "b_dec":
            expected[~kept] = 0
        assert before[name].any()
        assert torch.equal(moment, expected), name


def test_a_state_is_taken_up_with_the_same_bits(kernels: Kernels) -> None:
    sae = _drawn(Gated(d_sae=8), 6)
    first = _stepped(sae, kernels)
    other = Gated(d_sae=8).build(6)
    other.load_state_dict(sae.state_dict())
    second = Adam(other, BETAS, kernels)
    second.restore({name: moment.clone() for name, moment in first.state().items()}, first.steps)
    with kernels:
        for dictionary, adam in ((sae, first), (other, second)):
            _fill(dictionary, 9)
            adam.step(0.1)
    assert first.steps == second.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(moment, second.state()[name]) for name, moment in first.state().items())
