"""Settings of the cuts in a training run, and what they build."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compressm.compression import (
    AutoSchedule,
    CutSchedule,
    EnergyRank,
    ErrorBoundRank,
    FixedRank,
    FractionRank,
    GlobalBudget,
    RankRule,
    Reducer,
    Rollback,
    Schedule,
    TargetMetric,
)
from compressm.compression.reducers import find_reducer
from compressm.rivals import AireStates, LastStates, ModalStates, RandomStates, SmallestStates

_RULES = ("rank", "tolerance", "fraction", "error_bound", "total", "target")
_LATEST, _LATEST_TARGET = 0.5, 0.8
_RIVALS = ("modal", "modal-hinf", "last", "aire", "smallest", "random")


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """How to cut. One of rank, tolerance, fraction, error-bound, total and target turns cuts on."""

    rank: int | None = None
    """States of every layer after the last cut."""
    tolerance: float | None = None
    """Share of the sum of Hankel singular values that each cut may discard (the paper's tau)."""
    fraction: float | None = None
    """Share of the initial states that is left after the last cut."""
    error_bound: float | None = None
    """Largest error bound of each cut, relative to the largest Hankel singular value."""
    total: int | None = None
    """States of all layers together after the last cut."""
    target: float | None = None
    """How much worse each cut may make the validation metric (accuracy, bits per character, normalised RMSE:
    what the task is compared by) before retraining: cuts go as deep as that allows."""
    budget_by: Literal["energy", "score", "loss"] = "energy"
    """How layers share the total."""
    multiple_of: int = 1
    """Round sizes up to multiples of this."""
    schedule: Literal["fixed", "auto"] = "fixed"
    """When to cut: at fixed shares of training, or when the layers have settled."""
    cuts: int = 4
    """Attempts."""
    start: float = 0.0
    """Where the attempts begin, as a share of training."""
    stop: float = 0.1
    """Where they end (schedule fixed)."""
    latest: float | None = None
    """Where they end at the latest (schedule auto): half of training if not given. With a target four fifths,
    and the last attempt is made there."""
    realization: Literal["real", "complex"] = "real"
    """Form to balance: the real map in use, or the published complex one."""
    reduction: str | None = None
    """What ranks the states; what measured best for each kind of layer if not given. For linear layers:
    states (by what the data drives, the default), balanced (by the system's own Gramians, as published),
    gradients or covariance (by both inputs and gradients). Layers that vary with time have methods of their
    own, such as energy. For comparison: random, smallest, modal, modal-hinf, and with total and budget_by
    score last and aire."""
    optimizer_state: Literal["transport", "reset", "slice"] = "transport"
    """What becomes of the optimiser's moments at a cut."""
    guard: float | None = None
    """Take a cut back if the validation metric is worse by more than this after recovery (with schedule
    auto: if the training loss is higher by more than this)."""
    patience: int = 100
    """Steps for recovery."""
    track_every: int | None = None
    """Steps between checks of the Hankel singular values for the report, with or without cuts."""

    def __post_init__(self) -> None:
        given = [name for name in _RULES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(_RULES)}, not {' and '.join(given)}")
        if self.target is not None and self.schedule == "fixed":
            raise ValueError(
                "target needs schedule='auto': before the task is learned no cut costs accuracy, so a fixed "
                "early schedule would cut to almost nothing"
            )
        if self.track_every is not None and self.track_every < 1:
            raise ValueError(f"track_every is {self.track_every}; it must be at least 1")
        if self.reduction is not None and self.reduction not in _RIVALS:
            try:
                find_reducer(self.reduction, self.realization)
            except ValueError as error:
                raise ValueError(f"{error}, {', '.join(_RIVALS)}") from error

    def rule(
        self, evaluate: Callable[[], float] | None = None, mode: Literal["max", "min"] = "max"
    ) -> RankRule | None:
        """The rank rule these settings ask for, None without cuts.

        Args:
            evaluate: Gives the validation metric, for a rule that looks at it when it cuts.
            mode: Whether a good metric is large or small.

        Raises:
            ValueError: If its argument is out of range.
        """
        size = self.multiple_of
        if self.rank is not None:
            return FixedRank(self.rank, multiple_of=size)
        if self.tolerance is not None:
            return EnergyRank(tolerance=self.tolerance, multiple_of=size)
        if self.fraction is not None:
            return FractionRank(self.fraction, multiple_of=size)
        if self.error_bound is not None:
            return ErrorBoundRank(tolerance=self.error_bound, multiple_of=size)
        if self.total is not None:
            return GlobalBudget(self.total, self.budget_by, multiple_of=size)
        if self.target is None:
            return None
        return TargetMetric(evaluate or _nothing_to_measure, self.target, mode, multiple_of=size)

    @property
    def cuts_at_all(self) -> bool:
        """Whether these settings turn cuts on."""
        return any(getattr(self, name) is not None for name in _RULES)

    def make_schedule(self, total_steps: int) -> CutSchedule:
        """The attempts over a training of ``total_steps``."""
        if self.schedule == "auto":
            targeted = self.target is not None
            latest = (_LATEST_TARGET if targeted else _LATEST) if self.latest is None else self.latest
            return AutoSchedule(
                total_steps=total_steps,
                cuts=self.cuts,
                earliest=max(self.start, 0.05),
                latest=latest,
                last=latest if targeted else 0.0,
            )
        return Schedule(total_steps=total_steps, start=self.start, stop=self.stop, cuts=self.cuts)

    def make_reducer(self, seed: int) -> str | Reducer | None:
        """The method: a name of ours, a rival, or None for what each kind of layer prefers.

        Args:
            seed: For chance.
        """
        if self.reduction == "random":
            return RandomStates(seed)
        if self.reduction == "smallest":
            return SmallestStates(self.realization)
        if self.reduction in ("last", "aire"):
            return LastStates() if self.reduction == "last" else AireStates()
        if self.reduction in ("modal", "modal-hinf"):
            return ModalStates("h2" if self.reduction == "modal" else "hinf")
        return self.reduction

    def make_guard(self, mode: Literal["max", "min"] = "max") -> Rollback | None:
        """The guard, if any; on training loss with the automatic schedule, which looks at it, too.

        Args:
            mode: Whether a good validation metric is large or small.
        """
        if self.guard is None:
            return None
        if self.schedule == "auto":
            return Rollback(
                tolerance=self.guard, mode="min", patience=self.patience, window=self.patience // 2
            )
        return Rollback(tolerance=self.guard, mode=mode, patience=self.patience)


def _nothing_to_measure() -> float:
    raise RuntimeError("settings with a target were made without something to measure it with")
