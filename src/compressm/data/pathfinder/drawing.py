"""Images of dashes and dots, compiled with Numba; imported when images are made: compiling takes time."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from compressm.data.pathfinder.geometry import DASH, IN_DISTRACTORS, place_dashes, uniform
from compressm.data.splits import Array

PIXELS = 32
RADIUS = 1.5
THICKNESS = 0.5
# The setting's two contrasts: a dash half a pixel wide is as bright as a dot where it meets a pixel's centre.
CONTRAST = 2.0 * 0.75


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _reach(low: float, high: float, width: float) -> tuple[int, int]:
    """The range of pixels that a line of half width ``width`` over low..high can touch."""
    return max(int(low - width), 0), min(int(high + width) + 1, PIXELS)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _paint(image: Array, x: float, y: float, dx: float, dy: float, width: float, contrast: float) -> None:
    """Brighten the pixels within ``width`` of the line from (x, y) to (x + dx, y + dy); one pixel is soft."""
    top, bottom = _reach(min(y, y + dy), max(y, y + dy), width + 0.5)
    left, right = _reach(min(x, x + dx), max(x, x + dx), width + 0.5)
    length = dx * dx + dy * dy
    for row in range(top, bottom):
        for column in range(left, right):
            across, down = column + 0.5 - x, row + 0.5 - y
            along = 0.0 if length == 0.0 else min(max((across * dx + down * dy) / length, 0.0), 1.0)
            distance = math.hypot(across - along * dx, down - along * dy)
            light = min(max(width + 0.5 - distance, 0.0) * contrast, 1.0)
            image[row, column] = max(image[row, column], light)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def draw(seeds: Array, images: Array, labels: Array, long: int) -> None:
    """Draw images: label 1 where the dots are the two ends of one contour, else ends of different ones.

    Args:
        seeds: One state of the random numbers for each image, uint64 ``(count,)``.
        images: Written, uint8 ``(count, 32, 32)``.
        labels: Written, int64 ``(count,)``.
        long: Dashes of a long contour.
    """
    dashes = np.empty((2 * long + IN_DISTRACTORS, 3))
    image = np.empty((PIXELS, PIXELS))
    state = np.empty(1, np.uint64)
    for index in range(len(seeds)):
        state[0] = seeds[index]
        count = place_dashes(state, dashes, long)
        image[:] = 0.0
        for dash in range(count):
            x, y, angle = dashes[dash, 0], dashes[dash, 1], dashes[dash, 2]
            dx, dy = DASH * math.cos(angle), DASH * math.sin(angle)
            _paint(image, x, y, dx, dy, 0.5 * THICKNESS, CONTRAST)
        label = 1 if uniform(state) < 0.5 else 0
        last = 2 * long - 1 - label
        _paint(image, dashes[0, 0], dashes[0, 1], 0.0, 0.0, RADIUS, 1.0)
        x, y, angle = dashes[last, 0], dashes[last, 1], dashes[last, 2]
        x, y = x + DASH * math.cos(angle), y + DASH * math.sin(angle)
        _paint(image, x, y, 0.0, 0.0, RADIUS, 1.0)
        for row in range(PIXELS):
            for column in range(PIXELS):
                images[index, row, column] = int(255.0 * image[row, column] + 0.5)
        labels[index] = label
