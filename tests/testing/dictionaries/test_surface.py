from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unweave.core.codes import Codes
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.neurons import NeuronDictionary
from unweave.dictionaries.sae import SAE, keep_largest
from unweave.dictionaries.topk import TopKSAE
from unweave.store.rows import RowSource
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.dictionaries.surface import (
    check_codes,
    check_configuration,
    check_directions,
    check_linear_decoder,
    check_reconstruct,
    check_shapes,
    check_sparse_codes,
)
from unweave.testing.report import NotClaimedError

Make = Callable[..., Subject]


class Plain(SAE):
    """TopK without a sparse step, so that what it is broken in is `activation` alone."""

    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, self.config.k)


class FlattensRows(Plain):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.reshape(-1, self.d_in))


class ForwardOfItsOwn(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class ReconstructsLongerRows(Plain):
    def reconstruct(self, codes: Tensor, rows: Tensor) -> Tensor:
        return 2 * super().reconstruct(codes, rows)


class ScalesItDoesNotUse(Plain):
    row_norm = "layer_norm"

    def scales(self, rows: Tensor) -> Tensor:
        return 2 * super().scales(rows)


class NegativeCodes(Plain):
    def activation(self, pre: Tensor) -> Tensor:
        return pre * (pre.abs() > 0.5)


class TooManyCodes(Plain):
    def activation(self, pre: Tensor) -> Tensor:
        return keep_largest(pre, self.config.k + 2)


class Silent(Plain):
    def activation(self, pre: Tensor) -> Tensor:
        return pre * 0


class LongerRowsThanItSays(Plain):
    def decode(self, codes: Tensor) -> Tensor:
        return 2 * codes @ self.W_dec + self.b_dec


class DirectionsWithGradient(Plain):
    def directions(self) -> Tensor:
        return self.W_dec


class SquaresCodes(Plain):
    """One unit of a latent adds what it should; two units add four times as much."""

    def decode(self, codes: Tensor) -> Tensor:
        return (codes * codes) @ self.W_dec + self.b_dec


class SquaresCodesAndSaysSo(SquaresCodes):
    linear_decoder = False


class RoundsSparseCodes(Plain):
    def encode_sparse(self, x: Tensor) -> Codes:
        return Codes.from_dense(self.encode(x).detach().bfloat16().float())


class LosesTinyCodes(Plain):
    """What is lost is smaller than any tolerance on values; the number of active latents gives it away."""

    def activation(self, pre: Tensor) -> Tensor:
        return torch.cat([keep_largest(pre[..., :-1], 2), torch.full_like(pre[..., -1:], 1e-9)], -1)

    def encode_sparse(self, x: Tensor) -> Codes:
        codes = self.encode(x).detach()
        return Codes.from_dense(codes * (codes > 1e-6))


class KeepsZeros(Plain):
    def encode_sparse(self, x: Tensor) -> Codes:
        dense = self.encode(x).detach()
        n, d_sae = dense.shape
        every = Codes.from_dense(torch.ones(n, d_sae))
        return Codes(every.offsets, every.latent, dense.flatten().numpy(), d_sae)


@pytest.mark.parametrize(
    ("check", "broken", "says"),
    [
        (check_shapes, FlattensRows, r"encode of \[16\] has shape \[1, 32\]"),
        (check_shapes, ForwardOfItsOwn, r"forward\(x\), beside decode\(encode\(x\)\)"),
        (check_codes, NegativeCodes, "must not be negative; the smallest is -"),
        (check_codes, TooManyCodes, "5.00 latents are active in a row on average; k is 3"),
        (check_codes, Silent, "no latent is active"),
        (check_directions, LongerRowsThanItSays, r"directions\(\), beside decode\(e_j\)"),
        (check_directions, DirectionsWithGradient, "must not carry a gradient"),
        (check_reconstruct, ReconstructsLongerRows, r"reconstruct\(f, x\), beside decode\(f\)"),
        (check_reconstruct, ScalesItDoesNotUse, "what one unit of latent 0 adds, beside its direction"),
        (check_linear_decoder, SquaresCodes, r"decode\(f\), beside"),
        (check_sparse_codes, RoundsSparseCodes, "encode_sparse of 64 rows, beside encode"),
        (check_sparse_codes, LosesTinyCodes, "not as many active entries"),
        (check_sparse_codes, KeepsZeros, "holds zeros"),
    ],
)
def test_what_is_broken_is_found(
    check: Callable[[Subject], None], broken: type[Dictionary], says: str, hasty: Make
) -> None:
    with pytest.raises(AssertionError, match=says):
        check(hasty(broken))


def test_what_one_check_is_about_does_not_trouble_the_others(hasty: Make) -> None:
    check_directions(hasty(SquaresCodes))
    check_shapes(hasty(NegativeCodes))
    with pytest.raises(NotClaimedError, match="linear_decoder is False"):
        check_linear_decoder(hasty(SquaresCodesAndSaysSo))


class TakesAnyWidth(NeuronDictionary):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        self.mean.fill_(float(rows.moments().mean[0]))
        self.V.copy_(self.fit_directions(rows, generator))


class SaysTooLittle(Plain):
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        Dictionary.rescale(self, 2.0)


def test_a_kind_that_is_not_registered_is_told_to_be(hasty: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = hasty(TopKSAE)
    with pytest.raises(AssertionError, match=r"comes back as TopK.*is Broken registered itself"):
        check_configuration(subject)
    monkeypatch.setattr(type(subject.config), "kind", "")
    with pytest.raises(AssertionError, match="Broken is not registered: it needs @register"):
        check_configuration(subject)


@pytest.mark.parametrize(
    ("broken", "says"),
    [(TakesAnyWidth, "built for width 17 it takes rows of width 16"), (SaysTooLittle, "names not both widths")],
)
def test_widths_that_do_not_fit_must_be_refused(
    broken: type[Dictionary], says: str, hasty: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = hasty(broken)
    kind = type(subject.config)
    monkeypatch.setattr(kind, "kind", "broken")
    monkeypatch.setitem(kind.registry._members, "broken", kind)
    with pytest.raises(AssertionError, match=says):
        check_configuration(subject)
