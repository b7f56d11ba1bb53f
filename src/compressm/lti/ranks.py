"""How many Hankel singular values to keep: the published energy rule and the error bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def error_bound(hankel_singular_values: Tensor, keep: int) -> float:
    """``2 * sum_{i > keep} sigma_i``: bound of the H-infinity error of balanced truncation (Glover 1984).

    Raises:
        ValueError: If the values are not finite, not descending or negative, or ``keep`` is out of range.
    """
    values = _checked(hankel_singular_values)
    if not 0 <= keep <= len(values):
        raise ValueError(f"error_bound: keep must be in 0..{len(values)}, got {keep}")
    return 2.0 * math.fsum(values[keep:])


def energy_rank(hankel_singular_values: Tensor, tolerance: float) -> int:
    """Smallest ``k`` whose values hold the share ``1 - tolerance`` of the sum.

    First powers, as published (arXiv 2510.02823), not squares.  Evaluated as
    ``sum_{i > k} sigma_i <= tolerance * sum sigma`` from the small end: tolerance 0 drops exact zeros only.

    Returns:
        A number in ``1..n``, falling monotonically with the tolerance; 1 if all values are zero.

    Raises:
        ValueError: If the tolerance is outside ``[0, 1)`` or the values are not finite, descending and >= 0.
    """
    values = _checked(hankel_singular_values)
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"energy_rank: tolerance must be in [0, 1), got {tolerance}")
    return _smallest(values, tolerance * math.fsum(values))


def error_bound_rank(hankel_singular_values: Tensor, eps: float) -> int:
    """Smallest ``k`` with ``2 * sum_{i > k} sigma_i <= eps * sigma_1``.

    Returns:
        A number in ``1..n``, falling monotonically with ``eps``; 1 if all values are zero.

    Raises:
        ValueError: If ``eps`` is negative or not finite, or the values are not finite, descending and >= 0.
    """
    values = _checked(hankel_singular_values)
    if not (math.isfinite(eps) and eps >= 0.0):
        raise ValueError(f"error_bound_rank: eps must be finite and >= 0, got {eps}")
    return _smallest(values, 0.5 * eps * values[0])


def _smallest(values: list[float], allowed: float) -> int:
    """Smallest ``k >= 1`` whose tail sum is at most ``allowed``."""
    tail, keep = 0.0, len(values)
    while keep > 1 and tail + values[keep - 1] <= allowed:
        keep -= 1
        tail += values[keep]
    return keep


def _checked(hankel_singular_values: Tensor) -> list[float]:
    values = torch.as_tensor(hankel_singular_values).detach().cpu().to(torch.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"Hankel singular values must be a non-empty vector, got shape {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        index = int(torch.nonzero(~torch.isfinite(values))[0])
        raise ValueError(
            f"Hankel singular values must be finite, got {float(values[index])} at index {index}"
        )
    if bool((values < 0.0).any()) or bool((values[1:] > values[:-1]).any()):
        raise ValueError("Hankel singular values must be >= 0 and in descending order")
    listed: list[float] = values.tolist()
    return listed
