"""System identification: the output of an unknown linear system whose order is known here.

The system has 8 states, so a model needs no more; what a compression keeps can be compared with that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from compressm.data.splits import Array, Split, Splits
from compressm.data.task import Task

ORDER = 8
LENGTH = 512
SIZES = (2000, 250, 250)
NOISE = 0.01
SEED = 8128
# Half lives from 3 to 45 steps, each pair at a frequency of its own: no state can be left out.
_RADII = (0.8, 0.9, 0.96, 0.985)
_ANGLES = (2.2, 1.3, 0.6, 0.2)


class System(NamedTuple):
    """``x[k] = A x[k-1] + B u[k]``, ``y[k] = C x[k] + D u[k]`` with real matrices, float64."""

    A: Array
    B: Array
    C: Array
    D: Array


def true_system() -> System:
    """Return the system behind the task: stable, minimal, 8 states, one input, one output.

    Its impulse response has unit energy, so white noise of unit variance gives an output of unit variance.
    """
    random = np.random.RandomState(SEED)
    A = np.zeros((ORDER, ORDER))
    for block, (radius, angle) in enumerate(zip(_RADII, _ANGLES, strict=True)):
        cosine, sine = radius * np.cos(angle), radius * np.sin(angle)
        A[2 * block : 2 * block + 2, 2 * block : 2 * block + 2] = [[cosine, -sine], [sine, cosine]]
    # Slow pairs are excited less, so that each has a comparable share of the output's energy.
    B = np.repeat(np.sqrt(1.0 - np.square(_RADII)), 2)[:, None] * random.uniform(0.7, 1.3, (ORDER, 1))
    C = random.uniform(0.7, 1.3, (1, ORDER))
    D = np.full((1, 1), 0.3)
    state, energy = B, float(D[0, 0] + C[0] @ B[:, 0]) ** 2
    for _ in range(20 * LENGTH):
        state = A @ state
        energy += float(C[0] @ state[:, 0]) ** 2
    scale = energy**-0.5
    return System(A, B, scale * C, scale * D)


def simulate(system: System, u: Array) -> Array:
    """Return the outputs ``(count, L, outputs)`` for inputs ``(count, L, inputs)``, from rest."""
    state = np.zeros((len(u), len(system.A)))
    y = np.empty((*u.shape[:2], len(system.C)))
    for step in range(u.shape[1]):
        state = state @ system.A.T + u[:, step] @ system.B.T
        y[:, step] = state @ system.C.T + u[:, step] @ system.D.T
    return y


def make_sysid() -> Splits:
    """Make white inputs and outputs with 1 % of measurement noise; the same arrays on every call."""
    parts = (_split(count, np.random.RandomState(SEED + 1 + part)) for part, count in enumerate(SIZES))
    return Splits(*parts)


def _split(count: int, random: np.random.RandomState) -> Split:
    u = random.standard_normal((count, LENGTH, 1))
    y = simulate(true_system(), u) + NOISE * random.standard_normal((count, LENGTH, 1))
    return Split(u.astype(np.float32), y.astype(np.float32))


TASKS = (
    Task(
        name="sysid",
        kind="regression",
        input_dim=1,
        num_classes=0,
        target_dim=1,
        length=LENGTH,
        sizes=SIZES,
        description=f"System identification: the output of a linear system of order {ORDER} driven by noise.",
        origin="Made in memory.",
        reader=lambda _: make_sysid(),
    ),
)
