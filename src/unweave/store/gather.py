"""Compiled: rows that lie anywhere in memory, brought together."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT32, FLOAT16, BFLOAT16 = range(3)
_ROWS_AHEAD = 2
LINE = 64
_NUMBERS = LINE // 4


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


def _stream_line(stored, widen):
    """Sixteen numbers as a cache line of float32, written past the cache to an address that is a multiple of its size.

    Args:
        stored: the type that they are stored in.
        widen: builds what turns sixteen of them into float32, or into its bits.
    """

    @intrinsic
    def stream(_, to, source):
        def generate(_, builder, signature, values):
            place = ir.VectorType(stored, _NUMBERS).as_pointer()
            line = widen(builder, builder.load(builder.inttoptr(values[1], place), align=1))
            written = builder.store(line, builder.inttoptr(values[0], line.type.as_pointer()), align=LINE)
            written.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))

        return types.void(types.int64, types.int64), generate

    return stream


def _as_they_are(_, numbers):
    return numbers


def _from_half(builder, numbers):
    return builder.fpext(numbers, ir.VectorType(ir.FloatType(), _NUMBERS))


def _from_bfloat16(builder, numbers):
    bits = ir.VectorType(ir.IntType(32), _NUMBERS)
    return builder.shl(builder.zext(numbers, bits), ir.Constant(bits, [16] * _NUMBERS))


_stream_float32 = _stream_line(ir.IntType(32), _as_they_are)
_stream_float16 = _stream_line(ir.HalfType(), _from_half)
_stream_bfloat16 = _stream_line(ir.IntType(16), _from_bfloat16)


@intrinsic
def _fence(_):
    """Have what was written past the cache seen by other threads before anything that is written later."""
    return types.void(), lambda _, builder, signature, values: builder.fence("seq_cst")


_madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))


@njit(cache=True, nogil=True)
def _prefetch_row(address, row_bytes):
    for line in range(0, min(row_bytes, 4 * LINE), LINE):
        _prefetch(address + line)


@njit(cache=True, nogil=True)
def copy_rows(to, addresses, row_bytes):
    """Copy rows of so many bytes, from where they begin, one after the other to the address `to`."""
    n = len(addresses)
    for i in range(n):
        if i + _ROWS_AHEAD < n:
            _prefetch_row(addresses[i + _ROWS_AHEAD], row_bytes)
        _copy(to + i * row_bytes, addresses[i], row_bytes)


@njit(cache=True, nogil=True)
def stream_rows(to, addresses, d_in, stored):
    """Bring rows together as float32, past the cache: that costs no reading of the memory that they go to.

    Args:
        to: address of the first; a multiple of 64.
        addresses: where each row begins.
        d_in: width of a row; a multiple of 16.
        stored: `FLOAT32`, `FLOAT16` or `BFLOAT16`.
    """
    n = len(addresses)
    size = 4 if stored == FLOAT32 else 2
    for i in range(n):
        if i + _ROWS_AHEAD < n:
            _prefetch_row(addresses[i + _ROWS_AHEAD], d_in * size)
        place, source = to + i * d_in * 4, addresses[i]
        for first in range(0, d_in, _NUMBERS):
            if stored == FLOAT32:
                _stream_float32(place + first * 4, source + first * 4)
            elif stored == FLOAT16:
                _stream_float16(place + first * 4, source + first * 2)
            else:
                _stream_bfloat16(place + first * 4, source + first * 2)
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
