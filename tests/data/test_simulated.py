"""Tasks whose data is simulated: a linear system of known order, and a robot's arm."""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from compressm.data import Splits, get_task, load
from compressm.data.robot import PERIOD, STATE_SCALE, TORQUE_SCALE, Arm, advance, derivative, energy
from compressm.data.sysid import NOISE, ORDER, simulate, true_system


@functools.cache
def loaded(name: str) -> Splits:
    return load(name)


@pytest.mark.parametrize("name", ["sysid", "robot"])
def test_simulated_tasks_are_what_they_say(name: str) -> None:
    task, splits, again = get_task(name), loaded(name), load(name)
    parts = (splits.train, splits.validation, splits.test)
    assert tuple(len(part) for part in parts) == task.sizes
    for part in parts:
        batch = part.batch(slice(0, 3))
        assert tuple(batch.inputs.shape) == (3, task.length, task.input_dim)
        assert tuple(batch.targets.shape) == (3, task.length, task.target_dim)
        assert np.isfinite(part.inputs).all()
        assert np.isfinite(part.targets).all()
    assert np.array_equal(splits.test.targets, again.test.targets)
    assert not np.array_equal(splits.test.inputs[:200], splits.validation.inputs[:200])


def test_the_true_system_has_its_order() -> None:
    A, B, C, _ = true_system()
    assert A.shape == (ORDER, ORDER)
    assert np.abs(np.linalg.eigvals(A)).max() < 0.99
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    Q = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    values = np.sqrt(np.sort(np.linalg.eigvals(P @ Q).real)[::-1])
    # No state could be left out unnoticed: even the smallest is above the measurement noise.
    assert values[-1] > 3 * NOISE
    assert values[0] < 3


def test_outputs_are_the_systems() -> None:
    system, split = true_system(), loaded("sysid").test
    u, y = split.inputs[:20, :, 0].astype(float), split.targets[:20, :, 0].astype(float)
    # x[k] = A x[k-1] + B u[k]: SciPy's form has the input one step later.
    shifted = (system.A, system.B, system.C @ system.A, system.C @ system.B + system.D)
    numerator, denominator = scipy.signal.ss2tf(*shifted)
    expected = scipy.signal.lfilter(numerator[0], denominator, u, axis=1)
    assert np.abs(simulate(system, u[:, :, None])[:, :, 0] - expected).max() < 1e-9
    noise = y - expected
    assert 0.95 * NOISE < noise.std() < 1.05 * NOISE
    assert abs(loaded("sysid").train.targets.std() - 1) < 0.05


def test_without_friction_and_torque_the_energy_stays() -> None:
    arm, random = Arm(friction=0.0), np.random.RandomState(0)
    state = random.uniform(-2, 2, (30, 4))
    start, torque = energy(arm, state), np.zeros((30, 2))
    for _ in range(40):
        state = advance(arm, state, torque, substeps=20)
    assert np.abs(energy(arm, state) - start).max() < 1e-5


def test_power_is_what_torque_gives_and_friction_takes() -> None:
    arm, random = Arm(), np.random.RandomState(1)
    state, torque = random.uniform(-3, 3, (50, 4)), random.uniform(-5, 5, (50, 2))
    h = 1e-5
    ahead, behind = (energy(arm, state + s * h * derivative(arm, state, torque)) for s in (1, -1))
    velocity = state[:, 2:]
    power = np.sum(torque * velocity, axis=1) - arm.friction * np.sum(velocity**2, axis=1)
    assert np.abs((ahead - behind) / (2 * h) - power).max() < 1e-5


def lagrangian_residual(arm: Arm, state: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """``d/dt dL/dv - dL/dq`` by central differences, with L = 2 T - E and T the energy without gravity."""
    weightless = Arm(m1=arm.m1, m2=arm.m2, l1=arm.l1, l2=arm.l2, friction=0.0, gravity=0.0)

    def lagrangian(x: np.ndarray) -> float:
        return float(2 * energy(weightless, x) - energy(arm, x))

    def slope(x: np.ndarray, axis: int) -> float:
        step = 1e-4 * np.eye(4)[axis]
        return (lagrangian(x + step) - lagrangian(x - step)) / 2e-4

    h = 1e-4
    return np.array(
        [
            (slope(state + h * rate, joint + 2) - slope(state - h * rate, joint + 2)) / (2 * h)
            - slope(state, joint)
            for joint in range(2)
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_motion_obeys_lagranges_equations(seed: int) -> None:
    random, arm = np.random.RandomState(seed), Arm()
    state, torque = random.uniform(-2, 2, 4), random.uniform(-5, 5, 2)
    residual = lagrangian_residual(arm, state, derivative(arm, state, torque))
    assert np.abs(residual - (torque - arm.friction * state[2:])).max() < 1e-4


def test_targets_are_the_next_state() -> None:
    split = loaded("robot").validation
    assert np.array_equal(split.inputs[:, 1:, :4], split.targets[:, :-1])
    state = split.inputs[:, :, :4].astype(float) * STATE_SCALE
    torque = split.inputs[:, :, 4:].astype(float) * TORQUE_SCALE
    fine = advance(Arm(), state, torque, period=PERIOD, substeps=25)
    assert np.abs(fine / STATE_SCALE - split.targets).max() < 1e-3
    # Neither the state alone nor a frozen arm tells it; the values are of the order of 1.
    change = split.targets - split.inputs[:, :, :4]
    assert (change.std(axis=(0, 1)) > 0.03).all()
    assert (split.targets.std(axis=(0, 1)) < 2).all()
