"""The automatic schedule on simulated trainings, whose right moments are known."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.compression.autoschedule import AutoSchedule
from compressm.compression.schedule import CutSchedule, Observation, Schedule
from compressm.compression.tracking import HSVTracker

STEPS = 1000
Curve = Callable[[int], float]


def noise(step: int) -> float:
    """Some ten per cent, without a trend."""
    return 0.1 * math.sin(12.9898 * step * step)


def learned_early(step: int) -> float:
    return 0.3 + 2.0 * math.exp(-step / 40) + noise(step)


def transition(step: int, at: int = 300) -> float:
    """Frequencies are learned at once, the task itself much later."""
    return 0.3 + 0.5 * math.exp(-step / 20) + 4.0 / (1 + math.exp((step - at) / 15)) + noise(step)


def settling(step: int) -> Tensor:
    """A spectrum that drifts for some 150 steps."""
    rate = 0.2 + 0.8 * (1 - math.exp(-step / 50))
    return torch.exp(-rate * torch.arange(16, dtype=torch.float64))


def restless(step: int) -> Tensor:
    """Another one at every check."""
    slope = 0.05 * 60 ** torch.rand(1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return torch.exp(-slope * torch.arange(16, dtype=torch.float64))


def simulate(
    schedule: AutoSchedule,
    metric: Curve | None = learned_early,
    spectrum: Callable[[int], Tensor] = settling,
    *,
    bump: float = 0.0,
    steps: range = range(1, STEPS + 1),
    tracker: HSVTracker | None = None,
) -> list[int]:
    """Train as the compressor does; every attempt halves the layer and hurts the metric for 60 steps."""
    tracker = tracker or schedule.tracker()
    made: list[int] = []
    for step in steps:
        value = None if metric is None else metric(step)
        if value is not None and made and step - made[-1] < 60:
            value += bump
        if schedule.needs_tracking(step):
            tracker.observe(step, {"a": spectrum(step)[: 16 >> len(made)]})
        attempt = schedule.due(step, Observation(metric=value, tracker=tracker))
        if attempt is not None:
            made.append(step)
            assert attempt == len(made) or steps[0] > 1
    return made


def test_cuts_follow_each_other_once_spectrum_and_metric_have_settled() -> None:
    made = simulate(AutoSchedule(total_steps=STEPS))
    # 86 % of the spectrum's way is done at step 100, and five checks must have seen that. At each new size
    # they have to see as much again, until the last moment forces the rest.
    assert made == [220, 340, 460, 500]


def test_the_last_attempt_can_be_kept_for_the_end() -> None:
    made = simulate(AutoSchedule(total_steps=STEPS, latest=0.9, last=0.8))
    assert made[:3] == [220, 340, 460]
    assert 800 <= made[3] <= 900
    schedule = AutoSchedule(total_steps=STEPS, cuts=1, latest=0.9, last=0.9)
    assert [step for step in range(STEPS + 1) if schedule.possible(step)] == [900]
    assert simulate(schedule) == [900]


def test_a_late_transition_is_awaited() -> None:
    def settled_at_once(step: int) -> Tensor:
        return settling(step + 1000)

    early = simulate(AutoSchedule(total_steps=STEPS), learned_early, settled_at_once)
    assert early[0] <= 220
    # The plateau before the transition looks like the end, unless a target tells them apart.
    assert simulate(AutoSchedule(total_steps=STEPS), transition, settled_at_once)[0] < 300
    late = simulate(AutoSchedule(total_steps=STEPS, target=1.0, latest=0.9), transition, settled_at_once)
    assert 360 <= late[0] <= 480
    assert len(late) == 4


def test_fast_improvement_is_awaited_without_a_target() -> None:
    def steady(step: int) -> float:
        return max(0.5, 5.0 - step / 80) + noise(step)  # done at step 360

    def settled_at_once(step: int) -> Tensor:
        return settling(step + 1000)

    made = simulate(AutoSchedule(total_steps=STEPS, latest=0.9), steady, settled_at_once)
    assert 360 <= made[0] <= 460
    assert simulate(AutoSchedule(total_steps=STEPS, mode=None), None, settled_at_once)[0] == 120


def test_a_plateau_at_chance_is_no_learning() -> None:
    made = simulate(AutoSchedule(total_steps=STEPS), lambda step: 2.3 + noise(step))
    assert made == [440, 460, 480, 500]


def test_what_never_settles_is_cut_at_the_latest_moment() -> None:
    assert simulate(AutoSchedule(total_steps=STEPS), spectrum=restless) == [440, 460, 480, 500]
    assert simulate(AutoSchedule(total_steps=STEPS, cuts=1, latest=0.3), spectrum=restless) == [300]


def test_the_next_cut_waits_until_the_model_has_recovered() -> None:
    schedule = {"total_steps": STEPS, "latest": 1.0, "patience": 2}
    smooth = simulate(AutoSchedule(**schedule), spectrum=lambda step: settling(step + 1000))
    hurt = simulate(AutoSchedule(**schedule), spectrum=lambda step: settling(step + 1000), bump=1.0)
    assert smooth[0] == hurt[0]
    assert smooth[1] - smooth[0] == 60
    assert hurt[1] - hurt[0] == 80  # sixty steps of pain, and the check after them


def test_a_score_is_followed_upwards() -> None:
    arguments: dict[str, Any] = {"spectrum": lambda step: settling(step + 1000)}
    down = simulate(AutoSchedule(total_steps=STEPS), learned_early, **arguments)
    up = simulate(AutoSchedule(total_steps=STEPS, mode="max"), lambda s: -learned_early(s), **arguments)
    assert up == down
    wrong = simulate(AutoSchedule(total_steps=STEPS, mode="max"), learned_early, **arguments)
    assert wrong[0] == 440


def test_rare_validations_serve_as_well() -> None:
    schedule, tracker = AutoSchedule(total_steps=STEPS), HSVTracker()
    made = []
    for step in range(1, STEPS + 1):
        if schedule.needs_tracking(step):
            tracker.observe(step, {"a": settling(step + 1000)[: 16 >> len(made)]})
        metric = learned_early(step) - noise(step) if step % 50 == 0 else None
        if schedule.due(step, Observation(metric=metric, tracker=tracker)):
            made.append(step)
    assert 160 <= made[0] <= 260


def test_without_a_metric_it_says_so_once_and_waits() -> None:
    with pytest.warns(UserWarning, match=r"no metric up to step 60.*step\(metric=loss\)") as caught:
        made = simulate(AutoSchedule(total_steps=STEPS), None)
    assert len(caught) == 1
    assert made == [440, 460, 480, 500]


def test_checks_are_asked_for_only_where_they_can_matter() -> None:
    schedule = AutoSchedule(total_steps=STEPS, earliest=0.2)
    tracker = schedule.tracker()
    asked = []
    for step in range(1, STEPS + 1):
        if schedule.needs_tracking(step):
            asked.append(step)
            tracker.observe(step, {"a": restless(step)})
        schedule.due(step, Observation(metric=learned_early(step), tracker=tracker))
    assert asked == list(range(100, 501, 20))
    assert not schedule.possible(200)  # all attempts are made


def test_attempts_fall_only_where_they_were_said_to_be_possible() -> None:
    schedule = AutoSchedule(total_steps=STEPS, latest=0.333)
    possible = [step for step in range(1, STEPS + 1) if schedule.possible(step)]
    assert {60, 260, 273, 280, 293, 313, 333} <= set(possible)
    assert not {40, 270, 340} & set(possible)
    assert set(simulate(schedule, spectrum=restless)) <= set(possible)


def test_a_restart_makes_the_attempts_of_a_run_that_never_stopped() -> None:
    whole = simulate(AutoSchedule(total_steps=STEPS))
    first, second = AutoSchedule(total_steps=STEPS), AutoSchedule(total_steps=STEPS)
    stop = whole[0] - 7
    tracker = first.tracker()
    assert simulate(first, steps=range(1, stop + 1), tracker=tracker) == []
    second.load_state_dict(first.state_dict())
    resumed = second.tracker()
    resumed.load_state_dict(tracker.state_dict())
    assert simulate(second, steps=range(stop + 1, STEPS + 1), tracker=resumed) == whole
    # After its last attempt a schedule asks for nothing.
    third = AutoSchedule(total_steps=STEPS)
    third.load_state_dict(second.state_dict())
    assert simulate(third) == []
    with pytest.raises(ValueError, match="4 attempts made, is of a schedule with other"):
        AutoSchedule(total_steps=STEPS, cuts=2).load_state_dict(second.state_dict())
    with pytest.raises(ValueError, match="other settings"):
        AutoSchedule(total_steps=STEPS, mode=None).load_state_dict(second.state_dict())


def test_what_is_wrong_is_refused() -> None:
    schedule = AutoSchedule(total_steps=STEPS, mode=None)
    with pytest.raises(ValueError, match="step 60 is a check, but there is no tracker"):
        schedule.due(60, Observation())
    with pytest.raises(ValueError, match="metric of step 3 is nan"):
        AutoSchedule(total_steps=STEPS).due(3, Observation(metric=float("nan")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cuts": 0}, "cuts is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"settle": 1.5}, "settle is 1.5"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"earliest": 0.5, "latest": 0.5}, "earliest < latest"),
        ({"last": 0.6}, r"last is 0.6; it must be in \[0, 0.5\]"),
        ({"mode": "down"}, "mode is 'down'"),
        ({"mode": None, "target": 1.0}, "a target is for a metric"),
        ({"cuts": 30}, "30 attempts, 20 steps apart, do not fit between steps 50 and 500"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoSchedule(total_steps=STEPS, **arguments)


def test_both_schedules_keep_the_protocol() -> None:
    fixed: CutSchedule = Schedule(total_steps=100)
    automatic: CutSchedule = AutoSchedule(total_steps=100)
    assert (fixed.attempts, automatic.attempts) == (4, 4)
    assert [step for step in range(101) if fixed.possible(step)] == [2, 5, 8, 10]
    made = {step: fixed.due(step, Observation()) for step in range(1, 101)}
    assert {step: attempt for step, attempt in made.items() if attempt} == {2: 1, 5: 2, 8: 3, 10: 4}
    assert not any(fixed.needs_tracking(step) for step in range(101))
    fixed.load_state_dict(fixed.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert simulate(AutoSchedule(total_steps=100), steps=range(1, 101))[-1] <= 50
