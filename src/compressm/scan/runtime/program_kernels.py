"""The kernel that runs programs, and small ones that stand between others in them: Numba code."""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import ZERO, array, zero
from compressm.scan.runtime.pointers import (
    call,
    compiled,
    float32_pointer,
    int64_pointer,
    uint16_pointer,
    worker,
)
from compressm.scan.runtime.products import ROOM, multiply
from compressm.scan.runtime.vectors import item, load, put, spread, store
from compressm.scan.runtime.widths import LANES

_ONE, _LN2 = np.float32(1.0), np.float32(0.6931471805599453)


def run(arguments: Any) -> None:
    """Take items through kernels.

    Words: worker, workers, items, stages; addresses of the table, of the operands' addresses, of the bytes
    that each has for an item, and of those for a worker; the largest number of a kernel's words; address of
    all workers' sums, how many floats each has, and the number of workers that there is memory for: fewer may
    have come. The table holds for each stage the kernel and its number of words, and for each word a number
    and the operand whose address is added to it (or -1).
    """
    words = carray(arguments, (12,))
    number, workers = worker(words)
    items, stages = words[2], words[3]
    # Of unknown sizes, which nothing looks at.
    table, addresses = carray(int64_pointer(words[4]), (1 << 20,)), carray(int64_pointer(words[5]), (1 << 9,))
    per_item, per_worker = (
        carray(int64_pointer(words[6]), (1 << 9,)),
        carray(int64_pointer(words[7]), (1 << 9,)),
    )
    sums, count = array(words[9], words[11] * words[10]), words[10]
    for other in range(number, words[11], workers):
        zero(sums[other * count : (other + 1) * count])
    memory = np.empty(2 + words[8], np.int64)
    memory[0], memory[1] = 0, 1
    for one in range(items * number // workers, items * (number + 1) // workers):
        at = 0
        for _ in range(stages):
            kernel, count = table[at], table[at + 1]
            at += 2
            for k in range(count):
                value, operand = table[at], table[at + 1]
                if operand >= 0:
                    value += addresses[operand] + one * per_item[operand] + number * per_worker[operand]
                memory[2 + k] = value
                at += 2
            call(kernel, memory.ctypes.data)


@compiled
def _product(arguments: Any, size: Any) -> None:
    """As :func:`multiply`.

    Words: worker, workers; a, its width, whether it is turned; b, its width, whether it is turned; c, its
    width; rows, columns, inner, whether to add to c.
    """
    words = carray(arguments, (14,))
    room = np.zeros(ROOM // 4, np.float32)
    room[16] = 1.0
    multiply(
        size, room.ctypes.data, words[2], words[3], words[4], words[5], words[6], words[7], words[8],
        words[9], words[10], words[11], words[12], words[13],
    )  # fmt: skip


def product_float32(arguments: Any) -> None:
    """A product of float32; words of :func:`_product`."""
    _product(arguments, 4)


def product_bfloat16(arguments: Any) -> None:
    """A product of bfloat16 in float32; words of :func:`_product`."""
    _product(arguments, 2)


@compiled
def _move(arguments: Any, pointer: Any, grow: Any) -> None:
    """Words: worker, workers, count; float32 numbers; where they go, or are added to what is there."""
    words = carray(arguments, (5,))
    source, out = array(words[3], words[2]), carray(pointer(words[4]), (words[2],))
    whole = words[2] // LANES * LANES
    for i in range(0, whole, LANES):
        store(out, i, load(out, i) + load(source, i) if grow else load(source, i))
    for i in range(whole, words[2]):
        put(out, i, item(out, i) + item(source, i) if grow else item(source, i))


def copy(arguments: Any) -> None:
    """Copy numbers; words of :func:`_move`."""
    _move(arguments, float32_pointer, False)


def add(arguments: Any) -> None:
    """Add numbers to others; words of :func:`_move`."""
    _move(arguments, float32_pointer, True)


def narrow(arguments: Any) -> None:
    """Round numbers to bfloat16; words of :func:`_move`."""
    _move(arguments, uint16_pointer, False)


def add_narrow(arguments: Any) -> None:
    """Add numbers to those of bfloat16; words of :func:`_move`."""
    _move(arguments, uint16_pointer, True)


def clear(arguments: Any) -> None:
    """Zeros. Words: worker, workers, count; float32 numbers."""
    words = carray(arguments, (4,))
    zero(array(words[3], words[2]))


@compiled
def _gather_row(source: Any, parts: Any, gap: Any, factor: Any, out: Any) -> None:
    """``out = factor sum(source[part gap:])``."""
    whole = out.size // LANES * LANES
    for i in range(0, whole, LANES):
        total = load(source, i)
        for part in range(1, parts):
            total = total + load(source, part * gap + i)
        store(out, i, spread(factor) * total)
    for i in range(whole, out.size):
        single = source[i]
        for part in range(1, parts):
            single += source[part * gap + i]
        out[i] = factor * single


def gather(arguments: Any) -> None:
    """Sums over parts of what lies lane by lane, in the order of a matrix's rows.

    ``out[block, lane, i] = factor rate[block, i, lane] sum(source[:, block, first + i, lane])`` for i below
    ``width``; rates, where there are any, are in units of log 2.

    Words: worker, workers, parts, floats from part to part; source (parts, blocks, rows, lanes); blocks,
    rows, lanes, first, width; whether there are rates; rate (blocks, width, lanes), factor; out.
    """
    words = carray(arguments, (14,))
    parts, gap, blocks, count, lanes = words[2], words[3], words[5], words[6], words[7]
    first, width, rated = words[8], words[9], words[10]
    source = array(words[4], (parts - 1) * gap + blocks * count * lanes)
    rates, out = array(words[11], rated * blocks * width * lanes), array(words[13], blocks * lanes * width)
    factor = array(words[12], 1)[0]
    for block in range(blocks):
        here, to = source[(block * count + first) * lanes :], out[block * lanes * width :]
        if width == 1 and not rated:
            _gather_row(here, parts, gap, factor, to[:lanes])
            continue
        for lane in range(lanes):
            for i in range(width):
                total = ZERO
                for part in range(parts):
                    total += here[part * gap + i * lanes + lane]
                rate = rates[(block * width + i) * lanes + lane] * _LN2 if rated else _ONE
                to[lane * width + i] = factor * rate * total
