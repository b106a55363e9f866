"""The programs of the sparse step on a GPU (Triton).

Pre-activations come as the encoder's product, without its bias, which is added where they are read. They are compared
as keys: the bit patterns of float32 read as signed integers, whose order among positive numbers is the same; 0 stands
for all that is not positive, and NaN comes out above Inf, so that it is selected, reaches the loss and is seen there.

Nothing is added up with atomic operations: each sum has one order, and a result the same bits every time. Names in
capitals are known when a program is compiled.
"""

import triton
import triton.language as tl

_NAN = tl.constexpr(0x7FC00000)
_OCTAVES = tl.constexpr(4 << 23)  # of a float's bits


@triton.jit
def _keys(pre, bias, columns, start, n, CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """Keys and latents of BLOCK entries of a row from `start` on; the key is −1 behind the last one."""
    place = start + tl.arange(0, BLOCK)
    there = place < n
    latent = place
    if CHOSEN:
        latent = tl.load(columns + place, mask=there, other=0).to(tl.int32)
    value = tl.load(pre + latent, mask=there, other=0.0).to(tl.float32)
    value += tl.load(bias + place, mask=there, other=0.0)
    key = tl.maximum(value.to(tl.int32, bitcast=True), 0)
    key = tl.where(value != value, _NAN, key)  # noqa: PLR0124 - NaN, whose sign bit may be set
    return tl.where(there, key, -1), latent


@triton.jit
def _counts(pre, bias, columns, n, least, CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """How many keys of a row lie above `least`, and how many equal it."""
    above = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    for start in range(0, n, BLOCK):
        key, _ = _keys(pre, bias, columns, start, n, CHOSEN, BLOCK)
        above += (key > least).to(tl.int32)
        equal += (key == least).to(tl.int32)
    return tl.sum(above, 0), tl.sum(equal, 0)


@triton.jit
def _collect(pre, bias, columns, n, least, ties, latents, values, CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """Write a row's entries above `least`, and the first `ties` of those that equal it, in their order."""
    above_before = 0
    equal_before = 0
    for start in range(0, n, BLOCK):
        key, latent = _keys(pre, bias, columns, start, n, CHOSEN, BLOCK)
        above = (key > least).to(tl.int32)
        equal = (key == least).to(tl.int32)
        both = above + (equal << 16)  # one scan for both counts: neither exceeds BLOCK
        before = tl.cumsum(both, 0) - both
        before_equal = equal_before + (before >> 16)
        at = above_before + (before & 0xFFFF) + tl.minimum(before_equal, ties)
        keep = (above > 0) | ((equal > 0) & (before_equal < ties))
        tl.store(latents + at, latent, mask=keep)
        tl.store(values + at, key.to(tl.float32, bitcast=True), mask=keep)
        above_before += tl.sum(above, 0)
        equal_before += tl.sum(equal, 0)


@triton.jit
def _reached(first, second, least):
    """How many keys in two blocks are at least `least`."""
    return tl.sum((first >= least).to(tl.int32) + (second >= least).to(tl.int32), 0)


@triton.jit
def largest(
    pre, bias, columns, latents, values, width, n, k, CHOSEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Each row's k largest of n entries (all of its `width`, or where CHOSEN those in `columns`); a program a row.

    The two largest keys of each of BLOCK lanes stay in registers. A bound that k of those reach is found by halving an
    interval; k entries of the row or more reach it, and seldom more than k. Where it is more, the bound is settled by
    halving what lies above it, with one reading of the row for each count.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * width
    first = tl.full([BLOCK], -1, tl.int32)
    second = tl.full([BLOCK], -1, tl.int32)
    for start in range(0, n, BLOCK):
        key, _ = _keys(pre, bias, columns, start, n, CHOSEN, BLOCK)
        second = tl.maximum(second, tl.minimum(first, key))
        first = tl.maximum(first, key)
    top = tl.max(first, 0)
    low = tl.maximum(top - _OCTAVES, 0)
    low = tl.where(_reached(first, second, low) >= k, low, 0)
    high = top
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        reached = _reached(first, second, middle)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached > k, high, tl.where(reached < k, middle - 1, middle))
    least = low
    high = top
    above, equal = _counts(pre, bias, columns, n, least, CHOSEN, BLOCK)
    while (above > k) | (above + equal < k):
        low = tl.where(above > k, least + 1, low)
        high = tl.where(above > k, high, least - 1)
        least = low + ((high - low) >> 1)
        above, equal = _counts(pre, bias, columns, n, least, CHOSEN, BLOCK)
    _collect(pre, bias, columns, n, least, k - above, latents + row * k, values + row * k, CHOSEN, BLOCK)


@triton.jit
def reach(pre, bias, least, counts, width, shift, DIGITS: tl.constexpr, BLOCK: tl.constexpr):
    """counts[row, d] = how many keys of the row are at least least + (d << shift), for d below DIGITS; a program a row.

    What `least` has below the bits of d has to be 0.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * width
    base = tl.load(least) >> shift
    digits = tl.arange(0, DIGITS)
    count = tl.zeros([BLOCK, DIGITS], tl.int32)
    for start in range(0, width, BLOCK):
        key, _ = _keys(pre, bias, pre, start, width, False, BLOCK)
        count += (((key >> shift) - base)[:, None] >= digits[None, :]).to(tl.int32)
    tl.store(counts + row * DIGITS + digits, tl.sum(count, 0))


@triton.jit
def narrow(counts, least, rows, most, shift, DIGITS: tl.constexpr, BLOCK: tl.constexpr):
    """Add to `least` the largest multiple d << shift that `most` keys of the batch still reach; one program."""
    base = tl.load(least)
    digits = tl.arange(0, DIGITS)
    total = tl.zeros([BLOCK, DIGITS], tl.int64)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        total += tl.load(counts + row[:, None] * DIGITS + digits[None, :], mask=row[:, None] < rows, other=0)
    enough = (tl.sum(total, 0) >= most) & (digits > 0)
    tl.store(least, base + (tl.sum(enough.to(tl.int32), 0) << shift))


@triton.jit
def tally(pre, bias, least, above, equal, width, BLOCK: tl.constexpr):
    """How many keys of each row lie above one bound for all rows, and how many equal it; a program a row."""
    row = tl.program_id(0).to(tl.int64)
    over, same = _counts(pre + row * width, bias, pre, width, tl.load(least), False, BLOCK)
    tl.store(above + row, over)
    tl.store(equal + row, same)


@triton.jit
def collect(pre, bias, least, ties, offsets, latents, values, width, BLOCK: tl.constexpr):
    """Each row's entries above one bound for all rows, and ties[row] of those that equal it; a program a row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.load(offsets + row)
    _collect(
        pre + row * width, bias, pre, width, tl.load(least), tl.load(ties + row), latents + at, values + at, False,
        BLOCK,
    )  # fmt: skip


@triton.jit
def _add_rows(
    total, table, index, weight, order, start, stop, column, width, SORTED: tl.constexpr, ENTRIES: tl.constexpr
):
    """Add up: total[e % ENTRIES] += weight[e] table[index[e], column], start ≤ e < stop; SORTED: weight[order[e]].

    Several rows at a time, so that several loads are under way.
    """
    for first in range(start, stop, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)[:, None]
        there = entry < stop
        row = tl.load(index + entry, mask=there, other=0).to(tl.int64)
        if SORTED:
            w = tl.load(weight + tl.load(order + entry, mask=there, other=0), mask=there, other=0.0)
        else:
            w = tl.load(weight + entry, mask=there, other=0.0)
        total += w * tl.load(table + row * width + column, mask=there & (column < width), other=0.0)
    return total


@triton.jit
def residual(
    x, bias, offsets, latent, codes, decoder, out, squares, d_in, BLOCK: tl.constexpr, ENTRIES: tl.constexpr
):  # fmt: skip
    """What is missed, out = x − bias − Σ_e codes_e decoder_e, and its squares; a program for BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    there = column < d_in
    made = tl.zeros([ENTRIES, BLOCK], tl.float32)
    made = _add_rows(
        made, decoder, latent, codes, latent, tl.load(offsets + row), tl.load(offsets + row + 1), column[None, :], d_in,
        False, ENTRIES,
    )  # fmt: skip
    left = tl.load(x + row * d_in + column, mask=there, other=0.0) - tl.load(bias + column, mask=there, other=0.0)
    left -= tl.sum(made, 0)
    tl.store(out + row * d_in + column, left, mask=there)
    tl.store(squares + row * tl.num_programs(1) + part, tl.sum(left * left, 0))


@triton.jit
def products(rows, offsets, latent, decoder, dots, d_in, BLOCK: tl.constexpr, ENTRIES: tl.constexpr):
    """dots_e = ⟨rows_b, decoder_e⟩; a program for every so many of a row's entries, ENTRIES at a time."""
    row = tl.program_id(0).to(tl.int64)
    stop = tl.load(offsets + row + 1)
    step = ENTRIES * tl.num_programs(1)
    for first in range(tl.load(offsets + row) + ENTRIES * tl.program_id(1), stop, step):
        entry = first + tl.arange(0, ENTRIES)
        there = entry < stop
        j = tl.load(latent + entry, mask=there, other=0).to(tl.int64)
        product = tl.zeros([ENTRIES, BLOCK], tl.float32)
        for start in range(0, d_in, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < d_in
            r = tl.load(rows + row * d_in + column, mask=inside, other=0.0)
            w = tl.load(decoder + j[:, None] * d_in + column[None, :], mask=there[:, None] & inside[None, :], other=0.0)
            product += r[None, :] * w
        tl.store(dots + entry, tl.sum(product, 1), mask=there)


@triton.jit
def chunks(
    starts, order, row, weight, rows, partial, d_sae, d_in, chunk, BLOCK: tl.constexpr, ENTRIES: tl.constexpr
):  # fmt: skip
    """partial[c] = Σ weight_e rows_b over the c-th `chunk` of sorted entries, where they are all of one latent.

    A program for BLOCK columns of a chunk. The others are left to `accumulate`.
    """
    number = tl.program_id(0)
    start = number * chunk
    low = 0
    high = d_sae - 1
    while low < high:  # the last latent that begins here or before
        middle = (low + high + 1) >> 1
        begins = tl.load(starts + middle) <= start
        low = tl.where(begins, middle, low)
        high = tl.where(begins, high, middle - 1)
    if tl.load(starts + low + 1) >= start + chunk:
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros([ENTRIES, BLOCK], tl.float32)
        total = _add_rows(
            total, rows, row, weight, order, start, start + chunk, column[None, :], d_in, True, ENTRIES
        )  # fmt: skip
        tl.store(partial + number.to(tl.int64) * d_in + column, tl.sum(total, 0), mask=column < d_in)


@triton.jit
def accumulate(
    starts, order, row, weight, rows, partial, out, stride_row, stride_column, d_in, chunk, scale,
    ADD: tl.constexpr, BLOCK: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Sum up: out_j = scale · Σ weight_e rows_b over a latent's entries, added where ADD; a program for BLOCK columns.

    Whole chunks of the sorted entries come summed up; before them and behind them less than a chunk each is left.
    """
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < d_in
    start = tl.load(starts + latent)
    stop = tl.load(starts + latent + 1)
    first = (start + chunk - 1) // chunk
    last = tl.maximum(stop // chunk, first)  # chunks from first to last are whole
    before = tl.minimum(first * chunk, stop)
    behind = tl.maximum(last * chunk, before)
    total = tl.zeros([ENTRIES, BLOCK], tl.float32)
    total = _add_rows(total, rows, row, weight, order, start, before, column[None, :], d_in, True, ENTRIES)
    for c in range(first, last, ENTRIES):
        number = (c + tl.arange(0, ENTRIES))[:, None]
        whole = tl.load(
            partial + number.to(tl.int64) * d_in + column[None, :], mask=(number < last) & there[None, :], other=0.0
        )
        total += whole
    total = _add_rows(total, rows, row, weight, order, behind, stop, column[None, :], d_in, True, ENTRIES)
    at = out + latent * stride_row + column.to(tl.int64) * stride_column
    value = scale * tl.sum(total, 0)
    if ADD:
        value += tl.load(at, mask=there, other=0.0)
    tl.store(at, value, mask=there)


@triton.jit
def sums(starts, order, weight, out, BLOCK: tl.constexpr):
    """out_j = Σ weight_e over the entries of latent j, in float64; a program a latent."""
    latent = tl.program_id(0)
    stop = tl.load(starts + latent + 1)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(tl.load(starts + latent), stop, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        there = entry < stop
        total += tl.load(weight + tl.load(order + entry, mask=there, other=0), mask=there, other=0.0).to(tl.float64)
    tl.store(out + latent, tl.sum(total, 0).to(tl.float32))
