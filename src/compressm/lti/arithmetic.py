"""Complex arithmetic that keeps its digits near the unit circle.

Everything a Gramian needs is a difference from one: ``1 - |l|^2``, ``1 - l_i conj(l_j)``, ``1 - l``.  Formed
from the eigenvalues these lose all digits as ``|l| -> 1``; formed from ``log l`` they lose none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
ComplexArray = npt.NDArray[np.complex128]
FloatArray = npt.NDArray[np.float64]

_TURN = 2.0 * math.pi
_TURN_REST = 2.4492935982947064e-16  # 2 pi = _TURN + _TURN_REST to 33 digits
_SPLIT = 134217729.0  # 2**27 + 1: Veltkamp's constant for float64


def one_minus_exp(exponent: ComplexArray) -> ComplexArray:
    """Return ``1 - exp(exponent)`` to full relative accuracy, also where ``exponent`` is tiny or ``-inf``.

    With ``s``, ``c`` the sine and cosine of half the angle ``b``, ``1 - e^{a + ib} = (1 - e^a) + 2 e^a s^2 -
    2i e^a s c``: for ``a <= 0`` both terms of the real part are positive.
    """
    half = 0.5 * exponent.imag
    sine = np.sin(half)
    turned = 2.0 * np.exp(exponent.real) * sine
    result = np.empty_like(exponent)
    result.real = turned * sine - np.expm1(exponent.real)
    result.imag = -turned * np.cos(half)
    return result


def wrapped(log_values: ComplexArray) -> ComplexArray:
    """The same logarithms with angles in ``[-pi, pi]``, moved by exact turns.

    Sums of angles near a full turn, which ``l_i l_j`` close to 1 has, would otherwise be rounded.
    """
    turns = np.rint(log_values.imag / _TURN)
    result = log_values.copy()
    result.imag = (log_values.imag - turns * _TURN) - turns * _TURN_REST
    return result


def cauchy_denominators(log_rows: ComplexArray, log_columns: ComplexArray) -> ComplexArray:
    """Return the matrix ``1 - l_i m_j`` for ``l = exp(log_rows)``, ``m = exp(log_columns)``."""
    return one_minus_exp(wrapped(log_rows)[:, None] + wrapped(log_columns)[None, :])


def complex_log(values: ComplexArray) -> ComplexArray:
    """Return ``log(values)`` with a real part that is accurate relative to ``1 - |value|``.

    ``log|l| = log1p(|l|^2 - 1) / 2`` with ``|l|^2 - 1`` summed in doubled precision (Dekker's exact
    products); ``log(hypot(x, y))`` would keep ``eps / (1 - |l|)`` of it near the unit circle.  ``log(0)`` is
    ``-inf``.
    """
    x, y = np.abs(values.real), np.abs(values.imag)
    larger, smaller = np.maximum(x, y), np.minimum(x, y)
    near = (larger > 0.5) & (larger < 2.0)
    square, square_error = _exact_square(np.where(near, larger, 1.0))
    other, other_error = _exact_square(np.where(near, smaller, 0.0))
    excess = ((square - 1.0) + other) + (square_error + other_error)
    far = np.where(near, 1.0, np.hypot(x, y))
    result = np.empty_like(values)
    with np.errstate(divide="ignore"):
        result.real = np.where(near, 0.5 * np.log1p(excess), np.log(far))
    result.imag = np.arctan2(values.imag, values.real)
    return result


def complex_exp(exponent: ComplexArray) -> ComplexArray:
    """Return ``exp(exponent)``, exactly real where the angle is 0 or the float nearest to pi."""
    modulus, angle = np.exp(exponent.real), exponent.imag
    on_axis = (angle == 0.0) | (np.abs(angle) == math.pi)
    result = np.empty_like(exponent)
    result.real = modulus * np.cos(angle)
    result.imag = np.where(on_axis, 0.0, modulus * np.sin(angle))
    return result


def product(left: Array, right: Array) -> Array:
    """``left @ right``; a real ``right`` is applied to the real and imaginary parts of a complex ``left``.

    Large products run in PyTorch, so that one pool of threads does all of them: NumPy's own would compete for
    the same cores.
    """
    if np.iscomplexobj(left) and not np.iscomplexobj(right):
        stacked = product(np.concatenate([left.real, left.imag]), right)
        count = left.shape[0]
        both: Array = stacked[:count] + 1j * stacked[count:]
        return both
    result: Array = torch.from_numpy(left).matmul(torch.from_numpy(right)).numpy()
    return result


def mixed_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left @ right``; a real factor of a complex one is not made complex, which would double the work."""
    if left.is_complex() == right.is_complex():
        return left @ right
    if left.is_complex():
        return torch.complex(left.real @ right, left.imag @ right)
    return torch.complex(left @ right.real, left @ right.imag)


def thin_qr(matrix: Array) -> tuple[Array, Array]:
    """Householder QR of a tall matrix: orthonormal ``(m, n)``, upper triangular ``(n, n)``."""
    frame, upper = torch.linalg.qr(torch.from_numpy(matrix))
    return frame.numpy(), upper.numpy()


def _exact_square(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Split ``x * x`` into a float64 and its rounding error (Dekker 1971)."""
    square = x * x
    high = _SPLIT * x
    high = high - (high - x)
    low = x - high
    return square, ((high * high - square) + 2.0 * high * low) + low * low
