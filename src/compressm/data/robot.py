"""A planar arm of two links under gravity, driven by random torques: what is its next state?

The links are massless rods with a point mass at each end, their joints have viscous friction. Angles are
measured from straight down and from the first link. Equations of motion: Spong, Hutchinson, Vidyasagar, Robot
Modeling and Control, 2006, section 7.3, with all mass at the links' ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressm.data.splits import Array, Split, Splits
from compressm.data.task import Task

LENGTH = 256
SIZES = (1600, 200, 200)
SEED = 1729
# Seconds between two steps of a sequence, and steps of the integrator within one.
PERIOD = 0.05
SUBSTEPS = 5
# A new torque is drawn after this many steps.
HOLD = 8
MAX_TORQUE = (6.0, 1.5)
# Angles (rad), velocities (rad/s) and torques (Nm) are divided by these.
STATE_SCALE = np.array([1.0, 1.0, 4.0, 4.0])
TORQUE_SCALE = np.array(MAX_TORQUE)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Masses (kg), lengths (m), friction (Nm s) and gravity (m/s^2)."""

    m1: float = 1.0
    m2: float = 0.6
    l1: float = 0.6
    l2: float = 0.5
    friction: float = 0.5
    gravity: float = 9.81


def derivative(arm: Arm, state: Array, torque: Array) -> Array:
    """Return the rate of change of states ``(..., 4)`` under torques ``(..., 2)``.

    A state is two angles (rad) and their velocities (rad/s).
    """
    q1, q2, v1, v2 = np.moveaxis(state, -1, 0)
    coupling = arm.m2 * arm.l1 * arm.l2
    outer = arm.m2 * arm.l2**2
    inertia_12 = outer + coupling * np.cos(q2)
    inertia_11 = (arm.m1 + arm.m2) * arm.l1**2 + inertia_12 + coupling * np.cos(q2)
    swing = coupling * np.sin(q2)
    weight_2 = arm.m2 * arm.gravity * arm.l2 * np.sin(q1 + q2)
    weight_1 = (arm.m1 + arm.m2) * arm.gravity * arm.l1 * np.sin(q1) + weight_2
    force_1 = torque[..., 0] - arm.friction * v1 + swing * (2.0 * v1 + v2) * v2 - weight_1
    force_2 = torque[..., 1] - arm.friction * v2 - swing * v1**2 - weight_2
    determinant = inertia_11 * outer - inertia_12**2
    acceleration_1 = (outer * force_1 - inertia_12 * force_2) / determinant
    acceleration_2 = (inertia_11 * force_2 - inertia_12 * force_1) / determinant
    return np.stack((v1, v2, acceleration_1, acceleration_2), axis=-1)


def energy(arm: Arm, state: Array) -> Array:
    """Return the kinetic and potential energy (J) of states ``(..., 4)``, from the masses' positions."""
    q1, q2, v1, v2 = np.moveaxis(state, -1, 0)
    elbow = arm.l1 * v1 * np.stack((np.cos(q1), np.sin(q1)))
    hand = elbow + arm.l2 * (v1 + v2) * np.stack((np.cos(q1 + q2), np.sin(q1 + q2)))
    kinetic = 0.5 * arm.m1 * np.sum(elbow**2, axis=0) + 0.5 * arm.m2 * np.sum(hand**2, axis=0)
    elbow_height = -arm.l1 * np.cos(q1)
    hand_height = elbow_height - arm.l2 * np.cos(q1 + q2)
    total: Array = kinetic + arm.gravity * (arm.m1 * elbow_height + arm.m2 * hand_height)
    return total


def advance(
    arm: Arm, state: Array, torque: Array, *, period: float = PERIOD, substeps: int = SUBSTEPS
) -> Array:
    """Return the states one period later, by the classical Runge-Kutta method of order 4."""
    h = period / substeps
    for _ in range(substeps):
        k1 = derivative(arm, state, torque)
        k2 = derivative(arm, state + 0.5 * h * k1, torque)
        k3 = derivative(arm, state + 0.5 * h * k2, torque)
        k4 = derivative(arm, state + h * k3, torque)
        state = state + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return state


def make_robot() -> Splits:
    """Simulate arms from random states under random torques; the same arrays on every call."""
    parts = (_split(count, np.random.RandomState(SEED + part)) for part, count in enumerate(SIZES))
    return Splits(*parts)


def _split(count: int, random: np.random.RandomState) -> Split:
    arm = Arm()
    torques = random.uniform(-1.0, 1.0, (count, -(-LENGTH // HOLD), 2)) * MAX_TORQUE
    torques = np.repeat(torques, HOLD, axis=1)[:, :LENGTH]
    states = np.empty((count, LENGTH + 1, 4))
    states[:, 0] = random.uniform(-1.0, 1.0, (count, 4))
    for step in range(LENGTH):
        states[:, step + 1] = advance(arm, states[:, step], torques[:, step])
    states /= STATE_SCALE
    inputs = np.concatenate((states[:, :-1], torques / TORQUE_SCALE), axis=2)
    return Split(inputs.astype(np.float32), states[:, 1:].astype(np.float32))


TASKS = (
    Task(
        name="robot",
        kind="regression",
        input_dim=6,
        num_classes=0,
        target_dim=4,
        feedback=True,
        length=LENGTH,
        sizes=SIZES,
        description="A two-link arm under gravity: its next state from its state and the torques.",
        origin="Simulated in memory.",
        reader=lambda _: make_robot(),
    ),
)
