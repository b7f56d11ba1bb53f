"""Sound as symbols: 16-bit samples in 256 levels, fine near silence and coarse where it is loud."""

from __future__ import annotations

import numpy as np

from compressm.data.splits import Array

LEVELS = 256
MU = 255.0
PEAK = 32768.0
SILENCE = 128
"""The level of a sample of 0."""


def mu_law(samples: Array) -> Array:
    """Encode int16 samples of any shape as uint8 levels.

    ``F(x) = sign(x) log(1 + mu |x|) / log(1 + mu)`` with ``mu = 255`` for x in [-1, 1), in 256 equal steps
    (the continuous law behind ITU-T G.711, as WaveNet, arXiv 1609.03499, has it).
    """
    levels: Array = _TO_LEVELS[samples.view(np.uint16)]
    return levels


def from_mu_law(levels: Array) -> Array:
    """Decode levels to int16 samples, each to the middle of what is encoded so; 128 is silence.

    Raises:
        ValueError: If a level is not in 0..255.
    """
    if levels.size and not 0 <= int(levels.min()) <= int(levels.max()) < LEVELS:
        raise ValueError(f"levels hold {levels.min()}..{levels.max()}; each must be in 0..{LEVELS - 1}")
    samples: Array = _TO_SAMPLES[levels]
    return samples


def _levels_of_all() -> Array:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.int16) / PEAK
    compressed = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
    levels: Array = np.clip(np.rint((compressed + 1) * SILENCE), 0, LEVELS - 1).astype(np.uint8)
    return levels


def _samples_of_all() -> Array:
    compressed = np.arange(LEVELS) / SILENCE - 1
    x = np.sign(compressed) * np.expm1(np.abs(compressed) * np.log1p(MU)) / MU
    samples: Array = np.clip(np.rint(x * PEAK), -PEAK, PEAK - 1).astype(np.int16)
    return samples


_TO_LEVELS, _TO_SAMPLES = _levels_of_all(), _samples_of_all()
