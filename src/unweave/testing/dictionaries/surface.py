"""Checks of what a dictionary offers: shapes, codes, directions, sparse codes, configuration."""

import torch

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.dictionaries.base import DictionaryConfig
from unweave.store.rows import TensorRows
from unweave.testing.dictionaries.compare import expect_close, mean_l0
from unweave.testing.dictionaries.subject import LAST, Subject
from unweave.testing.report import expect, not_claimed


def check_shapes(subject: Subject) -> None:
    """`encode` and `decode` keep whatever stands before the last axis, none and no rows included."""
    dictionary, rows = subject.moved(), subject.held_out
    expect(dictionary.d_in == subject.d_in, f"d_in is {dictionary.d_in}, built for rows of width {subject.d_in}")
    for x in (rows[0], rows[:0], rows[:1], rows[:12], rows[:12].reshape(3, 4, -1)):
        codes = dictionary.encode(x)
        expected = [*x.shape[:-1], dictionary.d_sae]
        expect(list(codes.shape) == expected, f"encode of {list(x.shape)} has shape {list(codes.shape)}")
        back = dictionary.decode(codes)
        expect(back.shape == x.shape, f"decode of {expected} has shape {list(back.shape)}")
        expect_close(dictionary(x), back, "forward(x), beside decode(encode(x))")
    found = list(dictionary.directions().shape)
    expect(found == [dictionary.d_sae, subject.d_in], f"directions() has shape {found}, not [d_sae, d_in]")


def check_codes(subject: Subject) -> None:
    """Codes are finite and not negative, some are active, and no more than k a row on average where there is a k."""
    dictionary, rows = subject.moved(), subject.held_out
    codes = dictionary.encode(rows).detach()
    expect(bool(torch.isfinite(codes).all()), "codes hold NaN or Inf")
    expect(bool((codes >= 0).all()), f"codes must not be negative; the smallest is {float(codes.min()):.3g}")
    expect(bool((codes != 0).any()), "no latent is active in any row")
    k = getattr(subject.config, "k", None)
    if k is not None:
        l0 = mean_l0(codes)
        if dictionary.trained_by_gradient:
            losses = dictionary.loss(rows, LAST)
            l0 = float(losses.fired.sum()) / losses.rows
        expect(l0 <= k, f"{l0:.2f} latents are active in a row on average; k is {k}")


def check_directions(subject: Subject) -> None:
    """A direction is what one unit of its latent adds to a row: directions()[j] = decode(e_j) − decode(0)."""
    for dictionary in (subject.moved(), subject.trained):
        origin = dictionary.decode(torch.zeros(dictionary.d_sae))
        added = dictionary.decode(torch.eye(dictionary.d_sae)) - origin
        expect(not dictionary.directions().requires_grad, "directions() must not carry a gradient")
        expect_close(dictionary.directions(), added, "directions(), beside decode(e_j) − decode(0)")


def check_linear_decoder(subject: Subject) -> None:
    """What several latents add to a row is the sum of what each adds, in any amounts."""
    if not subject.claims.linear_decoder:
        not_claimed("linear_decoder is False")
    dictionary = subject.trained
    codes = dictionary.encode(subject.held_out)
    origin = dictionary.decode(torch.zeros(dictionary.d_sae))
    expected = origin + codes @ dictionary.directions()
    expect_close(dictionary.decode(codes), expected, "decode(f), beside decode(0) + f · directions()")
    expect_close(dictionary.decode(-3 * codes), 4 * origin - 3 * expected, "decode(−3 f), beside what f gives")


def check_reconstruct(subject: Subject) -> None:
    """Codes are given back in the rows that they are of, where one unit of a latent is `scales` times its direction.

    `reconstruct(codes, rows)` is `decode(codes)` and `scales` is 1 unless the kind normalises rows one by one.
    """
    for dictionary in (subject.moved(), subject.trained):
        rows = subject.held_out[:12]
        codes, scales = dictionary.encode(rows), dictionary.scales(rows)
        back = dictionary.reconstruct(codes, rows)
        expect_close(dictionary(rows), back, "forward(x), beside reconstruct(encode(x), x)")
        expect(list(scales.shape) == [len(rows), 1], f"scales of {list(rows.shape)} has shape {list(scales.shape)}")
        if dictionary.row_norm is None:
            expect_close(back, dictionary.decode(codes), "reconstruct(f, x), beside decode(f)")
            expect_close(scales, torch.ones_like(scales), "scales, beside 1")
        if not subject.claims.linear_decoder:
            continue
        for latent, direction in enumerate(dictionary.directions()[:4]):
            more = codes.clone()
            more[:, latent] += 1
            added = dictionary.reconstruct(more, rows) - back
            expect_close(added, scales * direction, f"what one unit of latent {latent} adds, beside its direction")


def check_sparse_codes(subject: Subject) -> None:
    """`encode_sparse` holds the active entries of `encode`, and nothing else."""
    for dictionary in (subject.moved(), subject.trained):
        for rows in (subject.held_out, subject.held_out[:1], subject.held_out[:0]):
            codes = dictionary.encode_sparse(rows)
            expect((codes.n, codes.d_sae) == (len(rows), dictionary.d_sae), f"it is of {codes.n} × {codes.d_sae}")
            expect(bool((codes.value != 0).all()), "encode_sparse holds zeros")
            dense = dictionary.encode(rows).detach()
            expect_close(codes.dense(), dense, f"encode_sparse of {len(rows)} rows, beside encode")
            expect(codes.nnz == int((dense != 0).sum()), "encode_sparse has not as many active entries as encode")


def check_configuration(subject: Subject) -> None:
    """The configuration comes back from JSON; widths that do not fit are one clear `InputError`."""
    config = subject.config
    expect(config.kind != "", f"{type(config).__name__} is not registered: it needs @register and a name")
    back = from_json(DictionaryConfig, to_json(config))
    expect(back == config, f"from JSON it comes back as {back}; is {type(config).__name__} registered itself?")
    wrong = subject.d_in + 1
    try:
        config.build(wrong).prepare(TensorRows(subject.planted.rows), torch.Generator())
    except InputError as error:
        told = all(str(width) in str(error) for width in (wrong, subject.d_in))
        expect(told, f"the error for rows of the wrong width names not both widths: {error}")
    else:
        raise AssertionError(f"built for width {wrong} it takes rows of width {subject.d_in}")
    try:
        config.build(0)
    except InputError:
        return
    raise AssertionError("build(0) must raise an InputError")
