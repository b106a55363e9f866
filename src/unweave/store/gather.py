"""Compiled: rows that lie anywhere in memory, brought together."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_ROWS_AHEAD = 2
_LINE = 64


@intrinsic
def _copy(_, to, source, size):
    def generate(_, builder, signature, values):
        to, source, size = values
        pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(to, pointer), builder.inttoptr(source, pointer), size, 1)

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _prefetch(_, address):
    def generate(_, builder, signature, values):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [builder.inttoptr(values[0], pointer), number(0), number(3), number(1)])

    return types.void(types.int64), generate


@intrinsic
def _stream_line(_, to, source):
    """Copy a cache line past the cache, to an address that is a multiple of its size."""

    def generate(_, builder, signature, values):
        line = ir.VectorType(ir.IntType(64), _LINE // 8).as_pointer()
        loaded = builder.load(builder.inttoptr(values[1], line), align=1)
        stored = builder.store(loaded, builder.inttoptr(values[0], line), align=_LINE)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))

    return types.void(types.int64, types.int64), generate


@intrinsic
def _fence(_):
    """Have what was written past the cache seen by other threads before anything that is written later."""
    return types.void(), lambda _, builder, signature, values: builder.fence("seq_cst")


_madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))


@njit(cache=True, nogil=True)
def copy_rows(to, addresses, row_bytes, past_cache):
    """Copy rows of so many bytes, from where they begin, one after the other to the address `to`.

    What is written past the cache costs no reading of the memory that it goes to. It pays where the rows are many.
    """
    n = len(addresses)
    whole = past_cache and to % _LINE == 0 and row_bytes % _LINE == 0
    for i in range(n):
        if i + _ROWS_AHEAD < n:
            ahead = addresses[i + _ROWS_AHEAD]
            for line in range(0, min(row_bytes, 4 * _LINE), _LINE):
                _prefetch(ahead + line)
        if whole:
            for line in range(0, row_bytes, _LINE):
                _stream_line(to + i * row_bytes + line, addresses[i] + line)
        else:
            _copy(to + i * row_bytes, addresses[i], row_bytes)
    if whole:
        _fence()


@njit(cache=True, nogil=True)
def advise_all(starts, stops, advice):
    """Tell the system what is to become of ranges of addresses (madvise); the first it refuses, or -1."""
    for i in range(len(starts)):
        if _madvise(starts[i], stops[i] - starts[i], advice) != 0:
            return i
    return -1


@njit(cache=True, nogil=True)
def row_addresses(starts, lengths, row_bytes, order):
    """Where rows begin: pieces of `lengths` rows begin at `starts`; `order` says which of all their rows come when."""
    n = 0
    for length in lengths:
        n += length
    inside = np.empty(n, np.int64)
    at = 0
    for piece in range(len(starts)):
        for row in range(lengths[piece]):
            inside[at] = starts[piece] + row * row_bytes
            at += 1
    found = np.empty(len(order), np.int64)
    for i in range(len(order)):
        found[i] = inside[order[i]]
    return found
