"""Where a gain over frequency is largest: a grid that knows the poles, and its refined maxima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm.lti.arithmetic import FloatArray, wrapped

_UNIFORM = 48
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))  # where to probe the longer side of a bracket
_NARROW = 6e-3  # golden sections bring a bracket to this share of a grid step, about 12 of them,
_SECTIONS = 60  # or more where its sides are very unequal;
_PARABOLAS = 2  # parabolas through three points then find the top of a smooth peak to about 1e-12

Gain = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peaks:
    """Local maxima of a gain, largest first: ``omega`` and ``value``, shape ``(m,)`` each."""

    omega: Tensor
    value: Tensor


def frequency_grid(log_A: Tensor, spacing: float = 0.5) -> Tensor:
    """Ascending frequencies in ``[0, pi]`` that resolve every pole.

    A pole ``exp(-d + i t)`` shapes the response over a distance ``d`` around ``|t|``.  Points are laid at
    each pole's angle and at growing multiples of ``d`` beside it; where poles crowd, points closer to each
    other than ``spacing`` times the distance to the nearest pole are dropped.
    """
    angles = np.abs(wrapped(log_A.numpy()).imag)
    widths = np.minimum(-log_A.real.numpy(), math.pi)
    candidates = _candidates(angles, widths)
    square = np.full(candidates.shape, math.pi**2)
    for angle, width in zip(angles.tolist(), widths.tolist(), strict=True):
        np.minimum(square, (candidates - angle) ** 2 + width * width, out=square)
    kept, last = [], -math.inf
    for point, step in zip(candidates.tolist(), (spacing * np.sqrt(square)).tolist(), strict=True):
        if point - last >= step:
            kept.append(point)
            last = point
    if kept[-1] < math.pi:
        kept.append(math.pi)
    return torch.tensor(kept, dtype=torch.float64)


def _candidates(angles: FloatArray, widths: FloatArray) -> FloatArray:
    points = [np.linspace(0.0, math.pi, _UNIFORM), angles]
    reach = 0.25
    while True:
        offsets = reach * widths
        active = offsets < math.pi
        if not active.any():
            break
        points += [angles[active] - offsets[active], angles[active] + offsets[active]]
        reach *= math.sqrt(2.0)
    merged = np.unique(np.concatenate(points))
    return merged[(merged >= 0.0) & (merged <= math.pi)]


def highest_peaks(gain: Gain, grid: Tensor, values: Tensor, *, count: int, share: float) -> Peaks:
    """Refine the highest local maxima of ``gain`` on a grid by golden section and parabolas.

    Args:
        gain: Maps frequencies ``(F,)`` to gains ``(F,)``.
        grid: Ascending frequencies ``(F,)``.
        values: The gain at the grid.
        count: At most so many maxima are refined.
        share: Only maxima of at least this share of the largest value are.
    """
    padded = torch.nn.functional.pad(values, (1, 1), value=-math.inf)
    summit = (values >= padded[:-2]) & (values >= padded[2:]) & (values >= share * values.max())
    index = torch.nonzero(summit).flatten()
    index = index[torch.argsort(values[index], descending=True, stable=True)][:count]
    low, high = grid[(index - 1).clamp(min=0)], grid[(index + 1).clamp(max=len(grid) - 1)]
    omega, value = grid[index], values[index]
    omega, value, width = _golden_section(gain, low, high, omega, value)
    for _ in range(_PARABOLAS):
        step = 0.5 * width
        before, after = gain(torch.cat([omega - step, omega + step])).tensor_split(2)
        bend = before - 2.0 * value + after
        offset = torch.where(bend < 0.0, 0.5 * step * (before - after) / bend, 0.0)
        vertex = (omega + torch.minimum(torch.maximum(offset, -step), step)).clamp(0.0, math.pi)
        reached = gain(vertex)
        omega, value = torch.where(reached > value, vertex, omega), torch.maximum(reached, value)
        width = width / 16.0
    ranking = torch.argsort(value, descending=True, stable=True)
    return Peaks(omega[ranking], value[ranking])


def _golden_section(
    gain: Gain, low: Tensor, high: Tensor, omega: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Shrink all brackets ``low <= omega <= high`` at once; return the best points, their gains, the widths.

    The gain at ``omega`` stays at least that at both ends, so a maximum stays inside, however unequal the
    sides are: where a sample has climbed, they may differ by orders of magnitude.
    """
    left, right = omega - low, high - omega
    shorter = torch.where((left > 0.0) & (right > 0.0), torch.minimum(left, right), left + right)
    for _ in range(_SECTIONS):
        if bool((high - low <= _NARROW * shorter).all()):
            break
        below = omega - low > high - omega
        probe = omega + _GOLDEN * torch.where(below, low - omega, high - omega)
        reached = gain(probe)
        better = reached > value
        # The worse of the two points becomes the end on its side.
        end = torch.where(better, omega, probe)
        raised = below != better
        low, high = torch.where(raised, end, low), torch.where(raised, high, end)
        omega, value = torch.where(better, probe, omega), torch.maximum(reached, value)
    return omega, value, high - low
