"""Sound in 256 levels: the law, its inverse, and the stream that a model continues."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressm.data.mu_law import LEVELS, SILENCE, from_mu_law, mu_law

ALL = np.arange(-32768, 32768).astype(np.int16)


@given(st.integers(-32768, 32767))
def test_levels_are_those_of_the_law(sample: int) -> None:
    x = sample / 32768
    compressed = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
    level = int(mu_law(np.array([sample], np.int16))[0])
    assert abs(level - min(255.0, 128 * (compressed + 1))) <= 0.5 + 1e-9


def test_decoding_lands_within_half_a_level_and_keeps_levels() -> None:
    decoded = from_mu_law(mu_law(ALL))
    # A level at amplitude x spans log(256) / 128 (1 / 255 + |x|) there; the last one stands for two.
    span = np.log(256) / 128 * (1 / 255 + np.maximum(np.abs(ALL), np.abs(decoded.astype(float))) / 32768)
    inside = mu_law(ALL) < LEVELS - 1
    assert np.all((np.abs(decoded.astype(float) - ALL) / 32768 <= 0.52 * span + 1 / 32768)[inside])
    levels = np.arange(LEVELS, dtype=np.uint8)
    assert np.array_equal(mu_law(from_mu_law(levels)), levels)
    assert from_mu_law(np.array([SILENCE])) == [0]
    assert np.all(np.diff(mu_law(ALL).astype(int)) >= 0)


def test_levels_out_of_range_are_refused() -> None:
    for wrong in (-1, 256):
        with pytest.raises(ValueError, match=r"each must be in 0\.\.255"):
            from_mu_law(np.array([3, wrong]))
