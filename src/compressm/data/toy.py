"""A tiny task made in memory, for tests and first steps: which of three frequencies is it?"""

from __future__ import annotations

import math

import numpy as np

from compressm.data.splits import Split, Splits
from compressm.data.task import Task

LENGTH = 32
SHORTEST = 12
PERIODS = (16.0, 8.0, 4.0)
SIZES = (384, 96, 96)
SEED = 20_510


def make_toy() -> Splits:
    """Make noisy sine waves of random phase, random length and one of three periods.

    The class is the period, so a model must remember the past: no single step and no mean tells it. Steps
    behind a sequence's length are zero. The same arrays on every call.
    """
    train, validation, test = (
        _waves(count, np.random.RandomState(SEED + part)) for part, count in enumerate(SIZES)
    )
    return Splits(train, validation, test)


def _waves(count: int, random: np.random.RandomState) -> Split:
    targets = np.arange(count) % len(PERIODS)
    lengths = random.randint(SHORTEST, LENGTH + 1, size=count)
    phase = random.uniform(0.0, 2.0 * math.pi, size=(count, 1))
    steps = np.arange(LENGTH)[None, :]
    angle = 2.0 * math.pi * steps / np.asarray(PERIODS)[targets][:, None] + phase
    waves = np.sin(angle) + 0.1 * random.standard_normal((count, LENGTH))
    waves[steps >= lengths[:, None]] = 0.0
    return Split(waves.astype(np.float32)[:, :, None], targets, lengths)


TASKS = (
    Task(
        name="toy",
        input_dim=1,
        num_classes=len(PERIODS),
        length=LENGTH,
        sizes=SIZES,
        description="Noisy sine waves of different lengths; the class is the period.",
        origin="Made in memory, for tests and first steps.",
        reader=lambda _: make_toy(),
    ),
)
