"""Cuts when the layer is ready for them, instead of at a fixed share of training."""

import warnings
from typing import Any

from compressm.compression.learning import LearningCurve, Mode
from compressm.compression.schedule import Observation
from compressm.compression.tracking import HSVTracker
from compressm.lti import Realization


class AutoSchedule:
    """An attempt when what it would keep has settled and the task is no longer being learned fast.

    Every ``interval`` of training the Hankel singular values are checked. An attempt is due at a check where
    a cut made ``patience`` checks earlier would still be right (:meth:`HSVTracker.settled`) and the metric
    that ``compressor.step(metric=...)`` was given improves slowly (:class:`LearningCurve`); the next attempt
    waits for the same again, at the new size. Attempts that are not made by then are forced, one ``interval``
    after another, the last one at ``latest``: all attempts are always made.

    Training loss will do as a metric and costs no evaluation; give it at every step, or as often as there is
    one.

    Args:
        total_steps: Optimiser steps of the whole training.
        cuts: Number of attempts.
        earliest: Share of training before which nothing is cut.
        latest: Share of training at which the last attempt falls if the model never settles.
        settle: How right an earlier cut must look to count as settled, in ``[0, 1]``: the share of the energy
            kept of what could have been kept.
        patience: How many checks earlier.
        rate: The task counts as learned when the best metric gained at most this share of all its
            improvement within ``patience`` checks, and the newest is as near to the best.
        mode: "min" for a loss, "max" for a score; None not to look at a metric.
        target: Value of the metric below which (mode "max": above which) learning has begun in earnest. For
            tasks with a plateau before their phase transition, which nothing else tells from the last one.
        interval: Share of training between checks.
        last: Share of training before which the last attempt is not made, for :class:`TargetMetric`.

    Raises:
        ValueError: If an argument is out of range or the attempts do not fit between earliest and latest.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        cuts: int = 4,
        earliest: float = 0.05,
        latest: float = 0.5,
        settle: float = 0.95,
        patience: int = 5,
        rate: float = 0.1,
        mode: Mode | None = "min",
        target: float | None = None,
        interval: float = 0.02,
        last: float = 0.0,
    ) -> None:
        _check_ranges(cuts=cuts, patience=patience, settle=settle, rate=rate, mode=mode, target=target)
        if not 0 <= earliest < latest <= 1:
            raise ValueError(
                f"AutoSchedule: earliest={earliest}, latest={latest} must satisfy 0 <= earliest < latest <= 1"
            )
        if not 0 <= last <= latest:
            raise ValueError(f"AutoSchedule: last is {last}; it must be in [0, {latest}], up to latest")
        self.total_steps, self.patience, self.settle = total_steps, patience, settle
        self._every = max(1, round(interval * total_steps))
        self._first = max(1, round(earliest * total_steps))
        self._last_from = round(last * total_steps)
        end = round(latest * total_steps)
        self._deadlines = tuple(end - self._every * (cuts - j) for j in range(1, cuts + 1))
        if self._deadlines[0] < self._first:
            raise ValueError(
                f"AutoSchedule: {cuts} attempts, {self._every} steps apart, do not fit between steps "
                f"{self._first} and {end}; take fewer cuts, more steps or a later end"
            )
        self._curve = None if mode is None else LearningCurve(mode, rate, patience * self._every, target)
        self._made = 0
        self._warned = False

    @property
    def attempts(self) -> int:
        """Number of attempts."""
        return len(self._deadlines)

    @property
    def check_every(self) -> int:
        """Optimiser steps between checks."""
        return self._every

    def tracker(self, *, realization: Realization = "real", states: int | None = None) -> HSVTracker:
        """A tracker that looks back as far as this schedule asks."""
        return HSVTracker(realization=realization, states=states, window=self.patience)

    @property
    def _begins(self) -> int:
        """The first step at which the next attempt may be made."""
        is_last = self._made == self.attempts - 1
        return max(self._first, self._last_from) if is_last else self._first

    def needs_tracking(self, step: int) -> bool:
        """At the checks whose result can still lead to an attempt."""
        looked_back = self._first - self.patience * self._every
        return self._made < self.attempts and step % self._every == 0 and step >= looked_back

    def possible(self, step: int) -> bool:
        """Whether ``step`` is a check after ``earliest``, or the last moment of an attempt not made yet."""
        if self._made == self.attempts or step < self._begins or step > self._deadlines[-1]:
            return False
        return step % self._every == 0 or step in self._deadlines[self._made :]

    def finished(self, step: int) -> bool:  # noqa: ARG002 - the attempts made decide
        """Whether all attempts have been made."""
        return self._made == self.attempts

    def due(self, step: int, observation: Observation) -> int | None:
        """The number of the attempt to make now, or None.

        Raises:
            ValueError: If the metric is not finite, or a check comes without a tracker.
        """
        if self._curve is not None and observation.metric is not None:
            self._curve.add(step, observation.metric)
        if self._made == self.attempts:
            return None
        ready = step % self._every == 0 and self._ready(step, observation) and step >= self._begins
        if not ready and step < self._deadlines[self._made]:
            return None
        self._made += 1
        return self._made

    def state_dict(self) -> dict[str, Any]:
        """Attempts made and the learning curve, in numbers and lists."""
        return {"made": self._made, "curve": None if self._curve is None else self._curve.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: If the state is of a schedule with other settings.
        """
        if (state["curve"] is None) != (self._curve is None) or not 0 <= state["made"] <= self.attempts:
            raise ValueError(
                f"AutoSchedule: the state, with {state['made']} attempts made, is of a schedule with other "
                "settings; build it with those of the run"
            )
        self._made = state["made"]
        if self._curve is not None:
            self._curve.load_state_dict(state["curve"])

    def _ready(self, step: int, observation: Observation) -> bool:
        # The curve closes its mean at every check, whatever else holds.
        learned = self._curve is None or self._curve.check(step)
        if step < self._first:
            return False
        if self._curve is not None and self._curve.empty and not self._warned:
            self._warned = True
            warnings.warn(
                f"AutoSchedule: no metric up to step {step}, so cuts wait until the latest moment; call "
                "compressor.step(metric=loss), or give mode=None to cut without looking at a metric",
                stacklevel=4,
            )
        if observation.tracker is None:
            raise ValueError(
                f"AutoSchedule: step {step} is a check, but there is no tracker; see needs_tracking()"
            )
        return learned and observation.tracker.settled(self.settle)


def _check_ranges(
    *, cuts: int, patience: int, settle: float, rate: float, mode: str | None, target: float | None
) -> None:
    for name, count in (("cuts", cuts), ("patience", patience)):
        if count < 1:
            raise ValueError(f"AutoSchedule: {name} is {count}; it must be at least 1")
    for name, share in (("settle", settle), ("rate", rate)):
        if not 0 <= share <= 1:
            raise ValueError(f"AutoSchedule: {name} is {share}; it must be in [0, 1]")
    if mode not in ("min", "max", None):
        raise ValueError(f"AutoSchedule: mode is {mode!r}; choose 'min', 'max' or None")
    if mode is None and target is not None:
        raise ValueError("AutoSchedule: a target is for a metric; with mode=None there is none")
