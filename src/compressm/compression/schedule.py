"""When to cut: by step, never tied to evaluation."""

from dataclasses import dataclass
from typing import Any, Protocol


class SettledView(Protocol):
    """What a schedule sees of the tracking (:class:`compressm.compression.tracking.HSVTracker`)."""

    def settled(self, threshold: float) -> bool:
        """Whether what a cut would keep has stopped changing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known after a step, for a schedule to decide on.

    Attributes:
        metric: Loss or score of this step, or of a validation that was just made, if there is one.
        tracker: The tracking, with this step's check in it if the schedule wanted one.
    """

    metric: float | None = None
    tracker: SettledView | None = None


class CutSchedule(Protocol):
    """Decides after every optimiser step whether to cut now."""

    @property
    def attempts(self) -> int:
        """How many attempts there are in all."""
        ...

    def needs_tracking(self, step: int) -> bool:
        """Whether a check of the layers' Hankel singular values is wanted before ``due`` of this step."""
        ...

    def possible(self, step: int) -> bool:
        """Whether an attempt may fall on ``step``, as far as is known now.

        For what an attempt needs beforehand, such as signals recorded in the steps that lead up to it.
        """
        ...

    def finished(self, step: int) -> bool:
        """Whether all attempts have been made after ``due`` of this step."""
        ...

    def due(self, step: int, observation: Observation) -> int | None:
        """The number of the attempt to make now, counted from 1, or None.

        Called once after every step, in order.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs, in numbers and lists."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Equidistant attempts: attempt ``j`` of ``cuts`` at step ``round(T (start + (stop - start) j / cuts))``.

    The paper's schedule is the default: four attempts within the first 10 % of training.

    Args:
        total_steps: Optimiser steps ``T`` of the whole training.
        start: Where the window begins, as a share of training.
        stop: Where it ends, which is where the last attempt falls.
        cuts: Number of attempts.

    Raises:
        ValueError: If the window is empty or outside training, or if two attempts fall on the same step.
    """

    total_steps: int
    start: float = 0.0
    stop: float = 0.1
    cuts: int = 4

    def __post_init__(self) -> None:
        if self.cuts < 1:
            raise ValueError(f"Schedule: cuts is {self.cuts}; it must be at least 1")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"Schedule: start={self.start}, stop={self.stop} must satisfy 0 <= start < stop <= 1"
            )
        steps = self.steps
        if steps[0] < 1 or len(set(steps)) < self.cuts:
            raise ValueError(
                f"Schedule: {self.cuts} attempts in {self.total_steps} steps would fall on steps {steps}; "
                "each needs a step of its own: take fewer cuts, a wider window or more steps"
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of every attempt; a cut follows that many optimiser steps."""
        width = self.stop - self.start
        return tuple(
            round(self.total_steps * (self.start + width * j / self.cuts)) for j in range(1, self.cuts + 1)
        )

    @property
    def attempts(self) -> int:
        """Number of attempts."""
        return self.cuts

    def needs_tracking(self, step: int) -> bool:  # noqa: ARG002 - the step count decides alone
        """Never."""
        return False

    def possible(self, step: int) -> bool:
        """Whether an attempt falls on ``step``."""
        return step in self.steps

    def finished(self, step: int) -> bool:
        """Whether ``step`` is not before the last attempt."""
        return step >= self.steps[-1]

    def due(
        self,
        step: int,
        observation: Observation | None = None,  # noqa: ARG002 - the step count decides alone
    ) -> int | None:
        """The attempt that falls on ``step``, whatever was observed."""
        return self.steps.index(step) + 1 if step in self.steps else None

    def state_dict(self) -> dict[str, Any]:
        """Nothing moves here: empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
        del state
