"""A schedule without attempts, for runs that only follow the Hankel singular values."""

from typing import Any

from compressm.compression import Observation


class NoCuts:
    """Never cuts (:class:`compressm.compression.CutSchedule`)."""

    attempts = 0

    def needs_tracking(self, step: int) -> bool:  # noqa: ARG002 - never, at whatever step
        """Not for its own sake."""
        return False

    def possible(self, step: int) -> bool:  # noqa: ARG002 - never, at whatever step
        """Never."""
        return False

    def finished(self, step: int) -> bool:  # noqa: ARG002 - always, at whatever step
        """Always."""
        return True

    def due(self, step: int, observation: Observation) -> int | None:  # noqa: ARG002 - never
        """None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Nothing moves here: empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
        del state
