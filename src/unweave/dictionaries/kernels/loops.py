"""The compiled loops of the sparse step on a CPU (Numba).

Each works on a range of rows or latents and holds no lock, so that a team of threads can share one step. What to keep
is decided on the bits of float32, read as signed integers: among positive numbers the order is the same, negative ones
stay below zero, NaN and Inf come out on top, so that they are selected, reach the loss and are seen there. Sums may be
reordered by the compiler, never skipped.
"""

import numpy as np
from numba import njit

_FAST = {"nsz", "arcp", "contract", "reassoc"}
_GROUP = 8
_LEAST = np.float32(-np.inf).view(np.int32)
_MOST = np.int32(np.iinfo(np.int32).max)
_OCTAVES = 4 << 23  # of a float's bits


@njit(cache=True, inline="always")
def _count(keys, n, least):
    """How many of keys[:n] are at least `least`."""
    count = np.int32(0)
    for i in range(n):
        count += np.int32(1) if keys[i] >= least else np.int32(0)
    return count


@njit(cache=True, inline="always")
def _bound(keys, n, k, slack):
    """A bound that k to k + slack of the positive keys[:n] reach, or 1 where fewer than k are positive.

    Halves the interval between what too many and what too few reach. On the bits of floats that is a search over
    orders of magnitude, and counting is a loop without a branch. With slack 0 it is the k-th largest key.
    """
    high = np.int32(1)
    for i in range(n):
        high = keys[i] if keys[i] > high else high
    low = np.int32(max(1, high - _OCTAVES))
    if _count(keys, n, low) < k:
        low = np.int32(1)
    while low < high:  # at least k reach `low`, where any bound does
        middle = np.int32(low + ((high - low + 1) >> 1))
        count = _count(keys, n, middle)
        if count < k:
            high = np.int32(middle - 1)
        else:
            low = middle
            if count <= k + slack:
                break
    return low


@njit(cache=True, inline="always")
def _group_maxima(row, maxima):
    """The largest key of each group; group g holds the entries g, g + groups, g + 2 groups and so on.

    Groups that run side by side let the compiler take sixteen at a time.
    """
    groups = len(maxima)
    for g in range(groups):
        maxima[g] = row[g]
    for turn in range(1, len(row) // groups):
        part = row[turn * groups : (turn + 1) * groups]
        for g in range(groups):
            maxima[g] = part[g] if part[g] > maxima[g] else maxima[g]
    rest = row[len(row) // groups * groups :]
    for g in range(len(rest)):
        maxima[g] = rest[g] if rest[g] > maxima[g] else maxima[g]


@njit(cache=True, inline="always")
def _collect(row, maxima, above, hit, key, latent, at):
    """Append the entries with a key over `above` to key and latent from `at` on; returns the new end.

    Without a branch on what is found: what is not wanted is overwritten by the next. Indices are unsigned, for which
    the compiler need not ask whether they count from the end.
    """
    width, groups = np.uint64(len(row)), np.uint64(len(maxima))
    hits, end = np.uint64(0), np.uint64(at)
    for g in range(groups):
        hit[hits] = g
        hits += np.uint64(maxima[g] > above)
    for h in range(hits):
        i = np.uint64(hit[h])
        while i < width:
            latent[end] = i
            end += np.uint64(row[i] > above)
            i += groups
    for e in range(np.uint64(at), end):
        key[e] = row[np.uint64(latent[e])]
    return np.int64(end)


@njit(cache=True, fastmath=_FAST, error_model="numpy", inline="always")
def _read(product, shift, bias, keys, value):
    """A row of the product plus the bias, as float32; `keys` are the bits of `value`.

    The row is read as integers: the bits of float32 (shift 0), or of bfloat16, its upper half (shift 16).
    """
    for i in range(len(keys)):
        keys[i] = np.int32(product[i]) << shift
    for i in range(len(keys)):
        value[i] += bias[i]
    for i in range(len(keys)):  # ∞ − ∞ is a NaN with its sign set, which would pass for a negative number
        keys[i] = keys[i] & _MOST if _LEAST < keys[i] < 0 else keys[i]


@njit(cache=True, nogil=True)
def positive(product, shift, bias, above, count, latent, out):
    """All entries with a key over `above`; returns how many there are (latent and out must hold them and one more)."""
    rows, width = product.shape
    keys = np.empty(width, np.int32)
    maxima = np.empty(-(-width // _GROUP), np.int32)
    hit = np.empty(len(maxima) + 1, np.int32)
    at = 0
    for b in range(rows):
        _read(product[b], shift, bias, keys, keys.view(np.float32))
        _group_maxima(keys, maxima)
        end = _collect(keys, maxima, above, hit, out, latent, at)
        count[b] = end - at
        at = end
    return at


@njit(cache=True, nogil=True)
def largest(product, shift, bias, k, count, latent, out):
    """The k largest positive entries of each row, equal ones by order of groups; returns how many there are.

    The k largest entries are among those that reach what k of the group maxima reach; those are few, and settled
    exactly among themselves.
    """
    rows, width = product.shape
    keys = np.empty(width, np.int32)
    maxima = np.empty(-(-width // _GROUP), np.int32)
    hit = np.empty(len(maxima) + 1, np.int32)
    key, where = np.empty(width + 1, np.int32), np.empty(width + 1, np.int32)
    at = 0
    for b in range(rows):
        _read(product[b], shift, bias, keys, keys.view(np.float32))
        _group_maxima(keys, maxima)
        bound = _bound(maxima, len(maxima), k, k >> 2) if k <= len(maxima) else np.int32(1)
        n = _collect(keys, maxima, bound - 1, hit, key, where, 0)
        least = _bound(key, n, k, 0) if n > k else np.int32(1)
        ties = k - _count(key, n, least + 1)
        start = at
        for i in range(n):
            latent[at] = where[i]
            out[at] = key[i]
            at += key[i] > least or (key[i] == least and ties > 0)
            ties -= key[i] == least
        count[b] = at - start
    return at


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def reconstruct(x, offsets, latent, value, decoder, bias, residual, dots, lo, hi):
    """What codes miss of rows [lo, hi), and its product with each active latent's decoder row; returns Σ‖residual‖²."""
    width = x.shape[1]
    total = 0.0
    for b in range(lo, hi):
        r = residual[b]
        for i in range(width):
            r[i] = x[b, i] - bias[i]
        _add_rows(r, decoder, latent, value, offsets[b], offsets[b + 1], np.float32(-1))
        square = np.float32(0)
        for i in range(width):
            square += r[i] * r[i]
        total += square
        _products(r, offsets[b], offsets[b + 1], latent, decoder, dots)
    return total


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def products(x, offsets, latent, decoder, dots, lo, hi):
    """The product of rows [lo, hi) with the decoder rows of their active latents."""
    for b in range(lo, hi):
        _products(x[b], offsets[b], offsets[b + 1], latent, decoder, dots)


@njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
def _products(r, start, stop, latent, decoder, dots):
    for e in range(start, stop):
        w = decoder[latent[e]]
        dot = np.float32(0)
        for i in range(len(r)):
            dot += r[i] * w[i]
        dots[e] = dot


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", inline="always")
def _add_rows(out, table, index, weight, start, stop, sign):
    """Add to out: sign · Σ_e weight[e] table[index[e]], four rows at a time."""
    width = len(out)
    e = start
    while e + 4 <= stop:
        a0, a1, a2, a3 = sign * weight[e], sign * weight[e + 1], sign * weight[e + 2], sign * weight[e + 3]
        t0, t1, t2, t3 = table[index[e]], table[index[e + 1]], table[index[e + 2]], table[index[e + 3]]
        for i in range(width):
            out[i] += (a0 * t0[i] + a1 * t1[i]) + (a2 * t2[i] + a3 * t3[i])
        e += 4
    while e < stop:
        a = sign * weight[e]
        t = table[index[e]]
        for i in range(width):
            out[i] += a * t[i]
        e += 1


@njit(cache=True, nogil=True)
def group(offsets, latent, starts, order, row):
    """Sort entries by latent, stably: starts [d_sae + 1], the entries' order, and the row of each in that order."""
    for j in range(len(starts)):
        starts[j] = 0
    for e in range(len(latent)):
        starts[latent[e] + 1] += 1
    for j in range(1, len(starts)):
        starts[j] += starts[j - 1]
    place = starts.copy()
    for b in range(len(offsets) - 1):
        for e in range(offsets[b], offsets[b + 1]):
            at = place[latent[e]]
            place[latent[e]] = at + 1
            order[at] = e
            row[at] = b


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def accumulate(starts, order, row, weight, scale, x, out, add, lo, hi):
    """Add or set: out[j] = scale · Σ_e weight[e] x[row of e] over the entries of latent j, for j in [lo, hi)."""
    most = 0
    for j in range(lo, hi):
        most = max(most, starts[j + 1] - starts[j])
    here = np.empty(most, np.float32)
    for j in range(lo, hi):
        o = out[j]
        if not add:
            for i in range(len(o)):
                o[i] = np.float32(0)
        first, n = starts[j], starts[j + 1] - starts[j]
        for e in range(n):
            here[e] = scale * weight[order[first + e]]
        _add_rows(o, x, row[first : first + n], here, 0, n, np.float32(1))


@njit(cache=True, nogil=True)
def sums(starts, order, weight, out):
    """Sum up: out[j] = Σ_e weight[e] over the entries of latent j."""
    for j in range(len(out)):
        total = 0.0
        for at in range(starts[j], starts[j + 1]):
            total += weight[order[at]]
        out[j] = total


@njit(cache=True, nogil=True)
def fired(latent, codes, out):
    """How many entries of each latent are not zero."""
    for j in range(len(out)):
        out[j] = 0
    for e in range(len(latent)):
        out[latent[e]] += codes[e] != 0


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def adam(weight, gradient, first, second, rate, beta1, beta2, root, epsilon, unit, lo, hi):
    """One step of Adam on rows [lo, hi); with `unit`, rows have length 1 before and after.

    weight −= rate · m / (√v · root + ε), where rate holds the first bias correction and root = 1 / √(1 − β2^t).
    """
    one = np.float32(1)
    width = weight.shape[1]
    for j in range(lo, hi):
        w, g, m, v = weight[j], gradient[j], first[j], second[j]
        if unit:
            along = np.float32(0)
            for i in range(width):
                along += g[i] * w[i]
            for i in range(width):
                g[i] -= along * w[i]
        for i in range(width):
            m[i] = beta1 * m[i] + (one - beta1) * g[i]
            v[i] = beta2 * v[i] + (one - beta2) * (g[i] * g[i])
            w[i] -= rate * m[i] / (np.sqrt(v[i]) * root + epsilon)
        if unit:
            square = np.float32(0)
            for i in range(width):
                square += w[i] * w[i]
            if square > 0:
                scale = one / np.sqrt(square)
                for i in range(width):
                    w[i] *= scale
