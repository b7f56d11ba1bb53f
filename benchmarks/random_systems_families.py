"""Families of random diagonal systems, easy and nasty, for the benchmark and for the tests.

Every family is a function of a NumPy generator; ``draw(name, seed)`` gives the same system on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complexfloating[Any, Any]]
Real = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Matrices:
    """``log_A (N,)``, ``B (N, H)``, ``C (P, N)`` complex and ``D (P, H)`` real."""

    log_A: Complex
    B: Complex
    C: Complex
    D: Real


def draw(name: str, seed: int) -> Matrices:
    """The ``seed``-th system of a family."""
    return FAMILIES[name](np.random.default_rng([seed, sorted(FAMILIES).index(name)]))


def _sizes(rng: np.random.Generator, largest: int = 32) -> tuple[int, int, int]:
    return int(rng.integers(1, largest + 1)), int(rng.integers(1, 5)), int(rng.integers(1, 5))


def _normal(rng: np.random.Generator, *shape: int) -> Complex:
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def _poles(rng: np.random.Generator, count: int, low: float, high: float) -> Complex:
    """Moduli uniform over the area of a ring, angles uniform."""
    modulus = np.sqrt(rng.uniform(low**2, high**2, count))
    return np.asarray(np.log(modulus) + 1j * rng.uniform(-math.pi, math.pi, count))


def _with_maps(rng: np.random.Generator, log_A: Complex, H: int, P: int) -> Matrices:
    """LRU-like input scaling, so that every mode has about the same Hankel norm."""
    N = len(log_A)
    gamma = np.sqrt(-np.expm1(2.0 * log_A.real))
    B = _normal(rng, N, H) / math.sqrt(2 * H) * gamma[:, None]
    C = _normal(rng, P, N) / math.sqrt(N)
    return Matrices(log_A, B, C, rng.standard_normal((P, H)))


def disc(rng: np.random.Generator) -> Matrices:
    """Poles anywhere in a disc of radius 0.99."""
    N, H, P = _sizes(rng)
    return _with_maps(rng, _poles(rng, N, 0.01, 0.99), H, P)


def ring(rng: np.random.Generator) -> Matrices:
    """The LRU's initial ring."""
    N, H, P = _sizes(rng)
    return _with_maps(rng, _poles(rng, N, 0.9, 0.999), H, P)


def large(rng: np.random.Generator) -> Matrices:
    """The same with 48 to 96 states."""
    N, H, P = int(rng.integers(48, 97)), int(rng.integers(1, 5)), int(rng.integers(1, 5))
    return _with_maps(rng, _poles(rng, N, 0.9, 0.999), H, P)


def near_circle(rng: np.random.Generator) -> Matrices:
    """Poles at 1e-7 to 1e-2 from the unit circle."""
    N, H, P = _sizes(rng)
    decay = -(10.0 ** rng.uniform(-7.0, -2.0, N))
    return _with_maps(rng, decay + 1j * rng.uniform(-math.pi, math.pi, N), H, P)


def clustered(rng: np.random.Generator) -> Matrices:
    """A few centres, poles at 1e-8 to 1e-1 around each."""
    N, H, P = _sizes(rng, 16)
    centres = _poles(rng, int(rng.integers(1, 4)), 0.3, 0.98)
    spread = 10.0 ** rng.uniform(-8.0, -1.0, N)
    log_A = centres[rng.integers(0, len(centres), N)] + 0.02 * spread * _normal(rng, N)
    log_A.real = np.minimum(log_A.real, -1e-3)
    return _with_maps(rng, log_A, H, P)


def repeated(rng: np.random.Generator) -> Matrices:
    """Poles that occur several times, exactly."""
    N, H, P = _sizes(rng, 16)
    centres = _poles(rng, int(rng.integers(1, 5)), 0.2, 0.99)
    return _with_maps(rng, centres[rng.integers(0, len(centres), N)], H, P)


def rank_deficient(rng: np.random.Generator) -> Matrices:
    """States that no input reaches, that no output sees, and copies of one another."""
    system = ring(rng) if rng.random() < 0.5 else disc(rng)
    N = len(system.log_A)
    B, C, log_A = system.B.copy(), system.C.copy(), system.log_A.copy()
    B[rng.random(N) < 0.3] = 0.0
    C[:, rng.random(N) < 0.3] = 0.0
    for target in np.flatnonzero(rng.random(N) < 0.2):
        source = int(rng.integers(0, N))
        log_A[target], B[target] = log_A[source], 2.0 * B[source]
    return Matrices(log_A, B, C, system.D)


def silent(rng: np.random.Generator) -> Matrices:
    """Nothing passes: B = 0, C = 0, or they never meet."""
    system = disc(rng)
    kind = int(rng.integers(0, 3))
    B, C = system.B.copy(), system.C.copy()
    half = len(system.log_A) // 2
    if kind == 0:
        B[:] = 0.0
    elif kind == 1:
        C[:] = 0.0
    else:
        B[half:], C[:, :half] = 0.0, 0.0
    return Matrices(system.log_A, B, C, system.D)


def badly_scaled(rng: np.random.Generator) -> Matrices:
    """Rows of B and columns of C scaled by 1e-6 to 1e6, half of the time against each other."""
    system = ring(rng) if rng.random() < 0.5 else disc(rng)
    N = len(system.log_A)
    scale = 10.0 ** rng.uniform(-6.0, 6.0, N)
    other = 1.0 / scale if rng.random() < 0.5 else 10.0 ** rng.uniform(-6.0, 6.0, N)
    return Matrices(system.log_A, system.B * scale[:, None], system.C * other, system.D)


def real_poles(rng: np.random.Generator) -> Matrices:
    """Poles on the real axis, of both signs, with real or complex maps."""
    N, H, P = _sizes(rng, 16)
    log_A = np.log(rng.uniform(0.05, 0.995, N)) + 1j * math.pi * rng.integers(0, 2, N)
    system = _with_maps(rng, log_A, H, P)
    if rng.random() < 0.5:
        return Matrices(log_A, system.B.real + 0j, system.C.real + 0j, system.D)
    return system


def near_real(rng: np.random.Generator) -> Matrices:
    """Pairs that have nearly met on the real axis, with maps that are nearly real."""
    N, H, P = _sizes(rng, 16)
    angle = 10.0 ** rng.uniform(-12.0, -1.0, N) * rng.choice([-1.0, 1.0], N)
    log_A = np.log(rng.uniform(0.1, 0.995, N)) + 1j * (angle + math.pi * rng.integers(0, 2, N))
    system = _with_maps(rng, log_A, H, P)
    tilt = 10.0 ** rng.uniform(-14.0, 0.0)
    return Matrices(log_A, system.B.real + 1j * tilt * system.B.imag, system.C, system.D)


def nearly_defective(rng: np.random.Generator) -> Matrices:
    """Two poles close to a Jordan block, with residues growing against each other, and smaller states."""
    N, H, P = _sizes(rng, 12)
    N = max(N, 2)
    log_A = _poles(rng, N, 0.3, 0.97)
    system = _with_maps(rng, log_A, H, P)
    gap = 10.0 ** rng.uniform(-6.0, -2.0)
    if rng.random() < 0.4:
        log_A[:2] = log_A[0].real
    log_A[1] = log_A[0] - gap
    B, C = system.B.copy(), system.C.copy()
    B[1] = B[0] + gap * B[1]
    C[:, 1] = -C[:, 0] + gap * C[:, 1]
    C[:, :2] /= gap
    C[:, 2:] *= 10.0 ** rng.uniform(-4.0, 0.0)
    return Matrices(log_A, B, C, system.D)


def merging(rng: np.random.Generator) -> Matrices:
    """Harmless systems whose two leading balanced states are about to merge into a double eigenvalue."""
    while True:
        N, H, P = int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
        first = _with_maps(rng, _poles(rng, N, 0.2, 0.95), H, P)
        second = _with_maps(rng, first.log_A, H, P)
        low, high = 0.0, 1.0
        start = _discriminant(first.log_A, first.B, first.C)
        if start * _discriminant(first.log_A, first.B, second.C) < 0.0:
            break
    steps = int(rng.integers(5, 53))
    for _ in range(steps):
        middle = 0.5 * (low + high)
        value = _discriminant(first.log_A, first.B, (1.0 - middle) * first.C + middle * second.C)
        low, high = (middle, high) if value * start > 0.0 else (low, middle)
    chosen = low if rng.random() < 0.5 else high
    return Matrices(first.log_A, first.B, (1.0 - chosen) * first.C + chosen * second.C, first.D)


def _discriminant(log_A: Complex, B: Complex, C: Complex) -> float:
    """Discriminant of the characteristic polynomial of the real balanced truncation to two states."""
    A = np.exp(log_A)
    poles, inputs = np.concatenate([A, A.conj()]), np.concatenate([B, B.conj()])
    outputs = 0.5 * np.concatenate([C, C.conj()], axis=1)
    P = inputs @ inputs.conj().T / (1.0 - poles[:, None] * poles.conj())
    Q = outputs.conj().T @ outputs / (1.0 - poles.conj()[:, None] * poles)
    eye = np.eye(len(A))
    to_complex = np.block([[eye, 1j * eye], [eye, -1j * eye]])
    to_real = np.linalg.inv(to_complex)
    P, Q = (to_real @ P @ to_real.conj().T).real, (to_complex.conj().T @ Q @ to_complex).real
    R, L = (vectors * np.sqrt(np.maximum(values, 0.0)) for values, vectors in map(np.linalg.eigh, (P, Q)))
    U, sigma, Vh = np.linalg.svd(L.T @ R)
    left, right = U[:, :2].T @ L.T, R @ Vh[:2].T
    dynamics = (to_real @ (poles[:, None] * to_complex)).real
    reduced = left @ dynamics @ right / np.sqrt(np.outer(sigma[:2], sigma[:2]))
    return float(np.trace(reduced) ** 2 - 4.0 * np.linalg.det(reduced))


def all_pass(rng: np.random.Generator) -> Matrices:
    """All Hankel singular values of the complex map equal: every cut is through a tie."""
    N, H, _ = _sizes(rng, 10)
    log_A = _poles(rng, N, 0.2, 0.95)
    A, B = np.exp(log_A), _normal(rng, N, H)
    gramian = B @ B.conj().T / (1.0 - A[:, None] * A.conj())
    values, vectors = np.linalg.eigh(gramian)
    values = np.maximum(values, 1e-9 * values[-1])
    to_orthonormal, back = (vectors / np.sqrt(values)).conj().T, vectors * np.sqrt(values)
    rows = np.concatenate([to_orthonormal @ (A[:, None] * back), to_orthonormal @ B], axis=1)
    completion = np.linalg.svd(rows)[2][N:]
    return Matrices(log_A, B, completion[:, :N] @ to_orthonormal, rng.standard_normal((H, H)))


def relaxation(rng: np.random.Generator) -> Matrices:
    """Real poles, one input, B = C^T: all values positive residues, values falling very fast."""
    N = int(rng.integers(1, 25))
    log_A = np.log(rng.uniform(0.1, 0.99, N)) + 0j
    B = rng.standard_normal((N, 1)) + 0j
    return Matrices(log_A, B, B.T.copy(), np.zeros((1, 1)))


FAMILIES: dict[str, Callable[[np.random.Generator], Matrices]] = {
    family.__name__: family
    for family in (
        disc,
        ring,
        large,
        near_circle,
        clustered,
        repeated,
        rank_deficient,
        silent,
        badly_scaled,
        real_poles,
        near_real,
        nearly_defective,
        merging,
        all_pass,
        relaxation,
    )
}


def frequency_error(first: Matrices, second: Matrices) -> float:
    """Largest singular value, over frequency, of the difference of two transfer functions.

    Plain NumPy, sharing nothing with the library: points around the poles of both, the largest refined.
    """
    poles = np.concatenate([first.log_A, second.log_A])
    widths = np.minimum(-poles.real, 3.0)
    multiples = np.concatenate([[0.0], 10.0 ** np.linspace(-1.0, 4.0, 11)])
    offsets = np.concatenate([multiples, -multiples])
    points = (poles.imag[:, None] + widths[:, None] * offsets[None, :]).ravel()
    points = np.abs(np.remainder(points + math.pi, 2.0 * math.pi) - math.pi)
    grid = np.unique(np.concatenate([points, np.linspace(0.0, math.pi, 129)]))
    gains = _difference(first, second, grid)
    best = float(gains.max())
    largest = np.argsort(gains)[::-1][:4]
    low, high = grid[np.maximum(largest - 1, 0)], grid[np.minimum(largest + 1, len(grid) - 1)]
    for _ in range(6):
        local = np.linspace(low, high, 13)
        values = _difference(first, second, local.ravel()).reshape(local.shape)
        best = max(best, float(values.max()))
        top, column = values.argmax(axis=0), np.arange(len(largest))
        low, high = local[np.maximum(top - 1, 0), column], local[np.minimum(top + 1, 12), column]
    return best


def _difference(first: Matrices, second: Matrices, omega: Real) -> Real:
    matrices = _transfer(first, omega) - _transfer(second, omega)
    return np.asarray(np.linalg.svd(matrices, compute_uv=False)[:, 0])


def _transfer(system: Matrices, omega: Real) -> Complex:
    shift = -1j * omega[:, None]
    plus = -1.0 / np.expm1(system.log_A + shift)
    minus = -1.0 / np.expm1(system.log_A.conj() + shift)
    both = (system.C * plus[:, None, :]) @ system.B + (system.C.conj() * minus[:, None, :]) @ system.B.conj()
    return np.asarray(0.5 * both + system.D)
