"""Turns of alternatives, with a clock that the alternatives themselves move."""

import pytest

from compressm.bench import timing
from compressm.bench.timing import interleave, median_ratio


class Clock:
    """A clock that stands still except where a step moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, seconds: float) -> timing.Step:
        def run() -> None:
            self.log.append(name)
            self.now += seconds

        return run


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE", 0.0)


def test_alternatives_take_turns_after_two_warm_ups() -> None:
    clock = Clock()
    steps = {"a": clock.step("a", 1.0), "b": clock.step("b", 3.0)}
    ticks: list[int] = []
    found = interleave(steps, 3, clock=clock, tick=lambda: ticks.append(len(clock.log)))
    assert "".join(clock.log) == "aabb" + "ab" + "ba" + "ab"
    assert found == {"a": [1.0] * 3, "b": [3.0] * 3}
    assert ticks == [6, 8, 10]


def test_short_steps_are_repeated_and_divided() -> None:
    clock = Clock()
    found = interleave({"a": clock.step("a", 0.25)}, 2, clock=clock, least_seconds=1.0)
    assert found["a"] == [0.25, 0.25]
    assert len(clock.log) == 2 + 2 * 4


def test_the_first_run_is_not_measured() -> None:
    clock = Clock()

    def run() -> None:
        clock.now += 100.0 if not clock.log else 1.0
        clock.log.append("a")

    assert interleave({"a": run}, 2, clock=clock)["a"] == [1.0, 1.0]


def test_ratios_are_taken_within_rounds() -> None:
    # The machine halves its speed in the middle round: the ratio does not notice, the medians' ratio would.
    assert median_ratio([2.0, 4.0, 2.2], [1.0, 2.0, 1.0]) == 2.0


def test_no_round_is_an_error() -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        interleave({}, 0)
