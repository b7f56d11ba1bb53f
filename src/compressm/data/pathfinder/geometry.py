"""Contours of dashes that keep clear of one another, compiled with Numba.

All lengths are pixels of the 32x32 image. The figures are those of the Long Range Arena's setting
``curv_contour_length_14``: dashes of 2 with gaps of 1, two long contours of 14 dashes that start 7 apart, 5
distractors of 4 dashes, a border of 1; continuity 1 means that the turn between dashes has a density
proportional to ``cos(turn)**2``. This is an implementation of its own: images of the same kind, not the same
images. With long contours of 6 dashes, and 10 distractors of 2, the question is the same and easier.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from compressm.data.splits import Array

SIZE = 32.0
BORDER = 1.5
DASH = 2.0
GAP = 1.0
# Centre lines of different contours stay a dark pixel apart.
CLEARANCE = 2.0
IN_DISTRACTORS = 20  # dashes, about: as many as fit in distractors of a third of a long contour
SEED_DISTANCE = 7.0
_TURNS = 6
_SEEDS = 30
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def uniform(state: Array) -> float:
    """Draw from [0, 1) and move the uint64 state ``(1,)`` on (SplitMix64: Steele, Lea, Flood, 2014)."""
    state[0] += _STEP
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) / 9007199254740992.0


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _fits(dashes: Array, count: int, before: int, x: float, y: float, angle: float) -> bool:
    """Whether a dash from (x, y) is inside and clear of the others but ``before``, the one it continues."""
    for point in range(3):
        px = x + 0.5 * point * DASH * math.cos(angle)
        py = y + 0.5 * point * DASH * math.sin(angle)
        if not (BORDER <= px <= SIZE - BORDER and BORDER <= py <= SIZE - BORDER):
            return False
        for other in range(count):
            if other == before:
                continue
            for part in range(3):
                qx = dashes[other, 0] + 0.5 * part * DASH * math.cos(dashes[other, 2])
                qy = dashes[other, 1] + 0.5 * part * DASH * math.sin(dashes[other, 2])
                if (px - qx) ** 2 + (py - qy) ** 2 < CLEARANCE**2:
                    return False
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _extend(state: Array, dashes: Array, count: int, before: int) -> bool:
    """Put dash number ``count`` behind dash ``before``; False if none of a few turns fits."""
    angle = dashes[before, 2]
    x = dashes[before, 0] + (DASH + 0.5 * GAP) * math.cos(angle)
    y = dashes[before, 1] + (DASH + 0.5 * GAP) * math.sin(angle)
    for _ in range(_TURNS):
        turn = math.pi * (uniform(state) - 0.5)
        while uniform(state) >= math.cos(turn) ** 2:
            turn = math.pi * (uniform(state) - 0.5)
        new = angle + turn
        tail_x, tail_y = x + 0.5 * GAP * math.cos(new), y + 0.5 * GAP * math.sin(new)
        if _fits(dashes, count, before, tail_x, tail_y, new):
            dashes[count, 0], dashes[count, 1], dashes[count, 2] = tail_x, tail_y, new
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _two_contours(state: Array, dashes: Array, long: int) -> bool:
    """Grow both long contours, dash by dash in turn: even rows are the first one's."""
    room = SIZE - 4.0 * SEED_DISTANCE
    x = 2.0 * SEED_DISTANCE + room * uniform(state)
    y = 2.0 * SEED_DISTANCE + room * uniform(state)
    around = 2.0 * math.pi * uniform(state)
    for contour in range(2):
        angle = 2.0 * math.pi * uniform(state)
        tail_x, tail_y = x, y
        if contour == 1:
            tail_x, tail_y = x + SEED_DISTANCE * math.cos(around), y + SEED_DISTANCE * math.sin(around)
        if not _fits(dashes, contour, -1, tail_x, tail_y, angle):
            return False
        dashes[contour, 0], dashes[contour, 1], dashes[contour, 2] = tail_x, tail_y, angle
    for count in range(2, 2 * long):  # noqa: SIM110 - Numba has no generator expressions in all()
        if not _extend(state, dashes, count, count - 2):
            return False
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _distractor(state: Array, dashes: Array, count: int, short: int) -> bool:
    for _ in range(_SEEDS):
        x, y, angle = SIZE * uniform(state), SIZE * uniform(state), 2.0 * math.pi * uniform(state)
        if not _fits(dashes, count, -1, x, y, angle):
            continue
        dashes[count, 0], dashes[count, 1], dashes[count, 2] = x, y, angle
        placed = 1
        while placed < short and _extend(state, dashes, count + placed, count + placed - 1):
            placed += 1
        if placed == short:
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def place_dashes(state: Array, dashes: Array, long: int) -> int:
    """Fill the dashes of one image; return how many there are.

    Args:
        state: Random state, uint64 ``(1,)``; moved on.
        dashes: Rows x, y and angle of each dash's beginning, float64 ``(2 long + IN_DISTRACTORS, 3)``: the
            two long contours in turn, then the distractors that found room.
        long: Dashes of a long contour, at least 3.
    """
    while not _two_contours(state, dashes, long):
        pass
    count, short = 2 * long, long // 3
    for _ in range(IN_DISTRACTORS // short):
        if _distractor(state, dashes, count, short):
            count += short
    return count
