"""Tiles of operands and states for the Triton kernels of linear attention: where they are, and decays.

A program serves one sequence, head and chunk of STEPS steps: its ``place``, chunks fastest. Steps beyond the
sequence have no key and decay nothing. Operands come as (batch, L, heads, channels), states of chunks as
(batch, heads, chunks, K, V), logarithms of decays per head and step or (PER_CHANNEL) for each key channel.

Every exponent is a sum of logarithms between two steps, added up over these steps alone: none is positive,
and none is the difference of two sums, so that a weak decay keeps its digits after a strong one.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

FLOOR = tl.constexpr(-128.0)
"""Logarithms below this count as this: its exponential is 0 in float32, and no sum becomes infinite."""


@triton.jit
def steps_of(L, heads, chunks, STEPS: tl.constexpr):
    """A program's place; its first step's row among (batch, L, heads); rows of its steps from there.

    Then which of its steps exist, and which are followed by another in the same chunk. Only the two numbers
    have 64 bits: whole tiles of such offsets would take the registers.
    """
    place, i = tl.program_id(0).to(tl.int64), tl.arange(0, STEPS)
    row, first = place // chunks, (place % chunks) * STEPS
    left = (L - first).to(tl.int32)
    origin = ((row // heads) * L + first) * heads + row % heads
    return place, origin, i * heads, i < left, i + 1 < tl.minimum(left, STEPS)


@triton.jit
def tile(x, origin, at, inside, c, width):
    """Steps by channels of an operand; 0 outside of it."""
    mask = inside[:, None] & (c < width)[None, :]
    return tl.load(x + origin * width + (at[:, None] * width + c[None, :]), mask=mask, other=0.0)


@triton.jit
def keep_tile(x, origin, at, inside, c, width, value):
    """Write steps by channels of a result."""
    mask = inside[:, None] & (c < width)[None, :]
    tl.store(x + origin * width + (at[:, None] * width + c[None, :]), value, mask=mask)


@triton.jit
def state_tile(states, place, c, e, K, V):
    """Key by value channels of a chunk's state; 0 outside of it."""
    inside = (c < K)[:, None] & (e < V)[None, :]
    return tl.load(states + place * K * V + (c[:, None] * V + e[None, :]), mask=inside, other=0.0)


@triton.jit
def pairs_at(pairs, place, STEPS: tl.constexpr):
    """Addresses of a chunk's matrix of later by earlier steps."""
    i = tl.arange(0, STEPS)
    return pairs + place * STEPS * STEPS + (i[:, None] * STEPS + i[None, :])


@triton.jit
def log_decays(g, origin, at, inside, c, K, PER_CHANNEL: tl.constexpr):
    """Logarithms of decays, steps by channels or by 1; 0 outside of the sequence."""
    if PER_CHANNEL:
        x = tile(g, origin, at, inside, c, K)
    else:
        x = tl.load(g + origin + at, mask=inside, other=0.0)[:, None]
    # Not maximum, which would hide what is not a number.
    return tl.where(x < FLOOR, FLOOR, x)


@triton.jit
def since_start(g, origin, at, inside, c, K, PER_CHANNEL: tl.constexpr):
    """Decays of what enters a chunk, up to each step and with it."""
    x = log_decays(g, origin, at, inside, c, K, PER_CHANNEL)
    if PER_CHANNEL:
        total = tl.cumsum(x, axis=0)
    else:
        # A column is summed under a mask: Triton 3.6 cannot compile every scan of one.
        i = tl.arange(0, x.shape[0])
        total = tl.sum(tl.where(i[None, :] <= i[:, None], tl.trans(x), 0.0), axis=1)[:, None]
    return tl.exp(total)


@triton.jit
def until_end(g, origin, after, followed, c, K, PER_CHANNEL: tl.constexpr):
    """Decays of what each step adds, after it to the chunk's end; ``after`` are rows of the next steps."""
    x = log_decays(g, origin, after, followed, c, K, PER_CHANNEL)
    if PER_CHANNEL:
        total = tl.cumsum(x, axis=0, reverse=True)
    else:
        i = tl.arange(0, x.shape[0])
        total = tl.sum(tl.where(i[None, :] >= i[:, None], tl.trans(x), 0.0), axis=1)[:, None]
    return tl.exp(total)
