"""What the Triton kernels of the selective recurrence share; of tiles see ``scan/runtime/columns.py``."""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.runtime.columns import row
from compressm.scan.runtime.triton_functions import LOG2_E

LANES = tl.constexpr(32)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def states(decay, added, h):
    """All states ``h_t = decay_t h_{t-1} + added_t`` of a tile, and the last; h is the one before it."""
    steps = tl.arange(0, decay.shape[0])[:, None]
    result = tl.zeros_like(added)
    for t in tl.static_range(decay.shape[0]):
        h = row(decay, t) * h + row(added, t)
        result = tl.where(steps == t, h[None, :], result)
    return result, h


@triton.jit
def adjoints(decay, into, back):
    """All adjoints ``w_t = into_t + back_t``, ``back_{t-1} = decay_t w_t``, of a tile, and the last back."""
    steps = tl.arange(0, decay.shape[0])[:, None]
    result = tl.zeros_like(into)
    for t in tl.static_range(decay.shape[0]):
        w = row(into, decay.shape[0] - 1 - t) + back
        result = tl.where(steps == decay.shape[0] - 1 - t, w[None, :], result)
        back = row(decay, decay.shape[0] - 1 - t) * w
    return result, back


@triton.jit
def softplus(x):
    """``log(1 + exp(x))``; the series of the inverse hyperbolic tangent keeps the digits of small results."""
    w = tl.exp2(tl.abs(x) * -LOG2_E)
    s = tl.fdiv(w, 2.0 + w)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def places(x, first, c, ROW: tl.constexpr, STEPS: tl.constexpr):
    """Where a tile's elements are: ``first`` is its first row, and a row is ROW elements behind the last."""
    return x + first * ROW + ((tl.arange(0, STEPS) * ROW)[:, None] + c[None, :])


@triton.jit
def tile_of(x, first, c, inside, ROW: tl.constexpr, STEPS: tl.constexpr):
    """A tile in float32; 0 outside."""
    return tl.load(places(x, first, c, ROW, STEPS), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def time_steps(
    delta, first, c, shift, inside, ROW: tl.constexpr, STEPS: tl.constexpr, SOFTPLUS: tl.constexpr
):
    """Time steps of a tile; 0 outside, where nothing decays and nothing is added."""
    step = tile_of(delta, first, c, inside, ROW, STEPS) + shift[None, :]
    if SOFTPLUS:
        step = softplus(step)
    return tl.where(inside, step, 0.0)


@triton.jit
def column_sums(a, b):
    """Sums of two tiles over channels, one to a lane, (1, 32): :func:`lane_places` says which.

    Each exchange between lanes works for two sums at once: a lane keeps its half of one and gives away its
    half of the other. For 8 steps these are 16 shuffles; summing each row by itself takes 80.
    """
    WIDTH: tl.constexpr = a.shape[1] // LANES
    if WIDTH > 1:
        a = tl.sum(tl.reshape(a, [a.shape[0], WIDTH, LANES]), axis=1)
        b = tl.sum(tl.reshape(b, [b.shape[0], WIDTH, LANES]), axis=1)
    total = _fold(a, b, 16)
    for i in tl.static_range(4):
        if total.shape[0] > 1:
            even, odd = _halves(total)
            total = _fold(even, odd, 8 >> i)
        else:
            total += _from_lane(total, 8 >> i)
    return total


@triton.jit
def lane_places(STEPS: tl.constexpr):
    """What lanes hold after :func:`column_sums`: the tile (0 or 1), the step, and whether none did before."""
    lane = tl.arange(0, LANES)
    step = tl.zeros_like(lane)
    for i in tl.static_range(4):
        if STEPS >> i > 1:
            step += ((lane >> (3 - i)) & 1) << i
    return (lane >> 4)[None, :], step[None, :], ((lane & (16 // STEPS - 1)) == 0)[None, :]


@triton.jit
def _fold(a, b, bit: tl.constexpr):
    """Half the sum of tile a in lanes without the bit, of tile b in the others."""
    upper = ((tl.arange(0, LANES) & bit) != 0)[None, :]
    return tl.where(upper, b, a) + _from_lane(tl.where(upper, a, b), bit)


@triton.jit
def _from_lane(x, bit: tl.constexpr):
    """What the lane holds that differs in one bit."""
    partner = tl.arange(0, LANES) ^ bit
    return tl.gather(x, tl.broadcast_to(partner[None, :], x.shape), 1)


@triton.jit
def _halves(x):
    """Even and odd steps of a tile."""
    pairs = tl.reshape(x, [x.shape[0] // 2, 2, x.shape[1]])
    return tl.split(tl.permute(pairs, (0, 2, 1)))
