"""When to cut: by step, never tied to evaluation."""

from dataclasses import dataclass


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
