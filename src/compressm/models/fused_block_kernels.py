"""Batch norm, recurrence and GELU of a block piece by piece: Numba kernels for float32 on a CPU.

The recurrence's own kernels (:mod:`compressm.scan.lti.sequences`), with the norm in front of a piece and GELU
behind it while the cache has the rows. Backward, a piece's normalised inputs are made anew from the block's
inputs, which the residual stream has in memory anyway, and the sums that batch norm's gradient begins with
are taken of a piece as it is done.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.models.norm_kernels import SUMMED, normalise_rows, run_of
from compressm.models.pointwise_kernels import gelu_backward_part, gelu_part, setting
from compressm.scan.lti.sequences import backward_through, forward_through
from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, worker
from compressm.scan.runtime.vectors import load, prefetch, prefetch_to_write, spread, store
from compressm.scan.runtime.widths import AHEAD, LANES

_FORWARD, _BACKWARD = 23, 29  # where words of our own begin


@compiled
def _normalised(words: Any, number: Any, row: Any, rows: Any, at: Any) -> Any:
    """Normalise a piece of the inputs; its address. Words from ``at`` on: mean, scale, room, mask."""
    H, largest = words[4], words[7] * words[8]
    to = words[at + 2] + 4 * number * largest * H
    mean, scale = carray(float32_pointer(words[at]), (H,)), carray(float32_pointer(words[at + 1]), (H,))
    x = carray(float32_pointer(words[11] + 4 * row * H), (rows, H))
    u = carray(float32_pointer(to), (rows, H))
    normalise_rows(x, mean, scale, u, 0, rows, _mask(words[at + 3], row))
    return to


@compiled
def _mask(address: Any, row: Any) -> Any:
    """The address of a mask's bytes from a row on; 0 if there is no mask."""
    return address + row if address != 0 else 0


@compiled
def _inputs(words: Any, number: Any, row: Any, rows: Any, _size: Any) -> Any:
    return _normalised(words, number, row, rows, _FORWARD)


@compiled
def _activate(words: Any, row: Any, rows: Any, u_rows: Any, y_rows: Any) -> None:
    """The direct path, GELU and dropout of a piece's outputs.

    Words behind those of the norm: D, where to, dropout's setting.
    """
    H = words[4]
    seed, threshold, scale = setting(words, _FORWARD + 6)
    u, y = carray(float32_pointer(u_rows), (rows, H)), carray(float32_pointer(y_rows), (rows, H))
    D = carray(float32_pointer(words[_FORWARD + 4]), (H,))
    out = carray(float32_pointer(words[_FORWARD + 5] + 4 * row * H), (rows, H))
    for k in range(rows):
        _add_direct(D, u[k], y[k])
        gelu_part(y[k], out[k], (row + k) * H, seed, threshold, scale)


@compiled
def _add_direct(D: Any, u: Any, y: Any) -> None:
    whole = D.size // LANES * LANES
    for j in range(0, whole, LANES):
        store(y, j, load(y, j) + load(D, j) * load(u, j))
    for j in range(whole, D.size):
        y[j] += D[j] * u[j]


@compiled
def _inputs_again(words: Any, number: Any, row: Any, rows: Any, _size: Any) -> Any:
    return _normalised(words, number, row, rows, _BACKWARD)


@compiled
def _slopes(words: Any, number: Any, row: Any, rows: Any, _size: Any) -> Any:
    """Gradients of a piece's outputs, from those behind GELU; their address.

    Words behind D, which follows those of the norm: the outputs, those gradients, room for a piece, dropout's
    setting.
    """
    H, largest = words[4], words[7] * words[8]
    seed, threshold, scale = setting(words, _BACKWARD + 8)
    to = words[_BACKWARD + 7] + 4 * number * largest * H
    y = carray(float32_pointer(words[_BACKWARD + 5] + 4 * row * H), (rows * H,))
    grad = carray(float32_pointer(words[_BACKWARD + 6] + 4 * row * H), (rows * H,))
    gelu_backward_part(y, grad, carray(float32_pointer(to), (rows * H,)), row * H, seed, threshold, scale)
    return to


@compiled
def _finish(words: Any, number: Any, row: Any, rows: Any, u_rows: Any, y_rows: Any, grad_rows: Any) -> None:
    """Add the direct path to a piece's gradients, and the piece to this worker's sums (the last word).

    Those are of gradients, of gradients times normalised inputs, and of these times gradients of outputs.
    Inputs that are no data have no gradient.
    """
    H = words[4]
    D = carray(float32_pointer(words[_BACKWARD + 4]), (H,))
    sums = carray(float64_pointer(words[_BACKWARD + 11] + 24 * number * H), (3, H))
    part = np.empty((3, H), np.float32)
    mask, first = _mask(words[_BACKWARD + 3], row), 0
    while first < rows:
        data, stop = run_of(mask, first, rows)
        if not data:
            carray(float32_pointer(y_rows + 4 * first * H), ((stop - first) * H,))[:] = 0
            carray(float32_pointer(grad_rows + 4 * first * H), ((stop - first) * H,))[:] = 0
        first = stop
    for start in range(0, rows, SUMMED):
        few = min(SUMMED, rows - start)
        u = carray(float32_pointer(u_rows + 4 * start * H), (few * H,))
        slopes = carray(float32_pointer(y_rows + 4 * start * H), (few * H,))
        grad = carray(float32_pointer(grad_rows + 4 * start * H), (few * H,))
        _finish_few(D, u, slopes, grad, part)
        for which in range(3):
            for j in range(H):
                sums[which, j] += part[which, j]


@compiled
def _finish_few(D: Any, u: Any, slopes: Any, grad: Any, part: Any) -> None:
    """A few rows, whose sums stay in registers."""
    H, whole = D.size, D.size // LANES * LANES
    for j in range(0, whole, LANES):
        direct, total, product, power = load(D, j), spread(ZERO), spread(ZERO), spread(ZERO)
        for at in range(j, grad.size, H):
            value, slope = load(u, at), load(slopes, at)
            pulled = load(grad, at) + direct * slope
            store(grad, at, pulled)
            total = total + pulled
            product = product + pulled * value
            power = power + slope * value
        store(part[0], j, total)
        store(part[1], j, product)
        store(part[2], j, power)
    for j in range(whole, H):
        part[0, j] = part[1, j] = part[2, j] = 0
    for row in range(0, grad.size, H):
        for j in range(whole, H):
            pulled = grad[row + j] + D[j] * slopes[row + j]
            grad[row + j] = pulled
            part[0, j] += pulled
            part[1, j] += pulled * u[row + j]
            part[2, j] += slopes[row + j] * u[row + j]


@compiled
def _pull(grad: Any, x: Any, beside: Any, centre: Any, scale: Any, mean: Any, slope: Any) -> None:
    whole = grad.size // LANES * LANES
    for j in range(0, whole, LANES):
        prefetch_to_write(grad, j + AHEAD)
        prefetch(x, j + AHEAD)
        prefetch(beside, j + AHEAD)
        factor = load(scale, j)
        normals = (load(x, j) - load(centre, j)) * factor
        pulled = load(grad, j) - load(mean, j) - normals * load(slope, j)
        store(grad, j, load(beside, j) + pulled * factor)
    for j in range(whole, grad.size):
        normal = (x[j] - centre[j]) * scale[j]
        grad[j] = beside[j] + (grad[j] - mean[j] - normal * slope[j]) * scale[j]


_advance, _return = forward_through(_inputs, _activate), backward_through(_inputs_again, _slopes, _finish)


def forward(arguments: Any) -> None:
    """Kernel. Words of the recurrence (u: the block's inputs; no D), then of our own.

    Those are mean, scale, room for a piece of each worker, mask or 0, D, out and dropout's.
    """
    _advance(arguments, float32_pointer, 4)


def backward(arguments: Any) -> None:
    """Kernel. Words of the recurrence (no gradient of y, no D), then of our own.

    Those are mean, scale, room for a piece of each worker, mask or 0, D, y, the gradient behind GELU, room
    again, dropout's, and each worker's sums, float64 (workers, 3, H), which start as zero.
    """
    _return(arguments, float32_pointer, 4)


def backward_apply(arguments: Any) -> None:
    """Kernel. The gradient of the block's inputs, in the place of that of normalised ones.

    Words: worker, workers, rows M, channels H, gradient, inputs and gradient of the residual stream (M, H);
    mean and scale of the norm; means of the gradient alone and times the normalised inputs (H,); mask or 0.
    """
    words = carray(arguments, (12,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    grad, x = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[5]), (M, H))
    beside, centre = carray(float32_pointer(words[6]), (M, H)), carray(float32_pointer(words[7]), (H,))
    scale, mean = carray(float32_pointer(words[8]), (H,)), carray(float32_pointer(words[9]), (H,))
    slope = carray(float32_pointer(words[10]), (H,))
    row, last = M * number // workers, M * (number + 1) // workers
    while row < last:
        data, stop = run_of(words[11], row, last)
        for k in range(row, stop):
            if data:
                _pull(grad[k], x[k], beside[k], centre, scale, mean, slope)
            else:
                grad[k] = beside[k]
        row = stop
