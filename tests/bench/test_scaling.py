"""Straight lines, axes, and choices against the best."""

import pytest

from compressm.bench.cases import LtiCase, SelectiveCase
from compressm.bench.comparison import FLOOR
from compressm.bench.grid import Choice
from compressm.bench.scaling import AXES, LTI, SELECTIVE, Point, Sweep, axis_cases, straight_line


def test_the_line_is_found_again() -> None:
    assert straight_line([1, 2, 8], [5.0, 8.0, 26.0]) == pytest.approx((2.0, 3.0))


def test_no_offset_below_zero() -> None:
    # A quadratic's best line would cross zero; through the origin its slope lies between 1 and 4.
    offset, slope = straight_line([1, 2, 3, 4], [1.0, 4.0, 9.0, 16.0])
    assert offset == 0.0
    assert 1 < slope < 4
    assert straight_line([4], [2.0]) == pytest.approx((0.0, 0.5))


def test_growth_beyond_the_line_shows() -> None:
    points = [Point(value=v, case=LTI, seconds=float(v**2), peak_bytes=None) for v in (1, 2, 4, 8, 16)]
    over = Sweep(operation="lti_scan", axis="L", points=points).over_line()
    assert over[-1] > 2
    assert over == sorted(over)


def test_axes_have_the_wanted_ends() -> None:
    assert (AXES["L"][0], AXES["L"][-1]) == (2**8, 2**17)
    assert (AXES["N"][0], AXES["N"][-1]) == (8, 512)


def test_shapes_along_an_axis() -> None:
    lengths = axis_cases("L", longest=512, form="scan")
    assert [(value, case.L) for value, case in lengths[LTI.name]] == [(256, 256), (512, 512)]
    first = lengths[LTI.name][0][1]
    assert isinstance(first, LtiCase)
    assert (first.form, first.H, first.N) == ("scan", LTI.H, LTI.N)
    channels = axis_cases("H")[SELECTIVE.name]
    for value, case in channels:
        assert isinstance(case, SelectiveCase)
        assert (case.d, case.L) == (value, SELECTIVE.L)


def test_a_choice_is_held_against_the_alternatives_and_not_the_floor() -> None:
    choice = Choice(shape="s", seconds={FLOOR: 0.1, "scan": 3.0, "convolution": 2.0}, picked="scan")
    assert choice.over_best == 1.5
