"""The smallest sizes at which a metric holds, found by trying."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from compressm.compression.cutting import CutPlan
from compressm.compression.ranks import EnergyRank, RankRule, Sizes, Spectrum, Target

_LOOSEST, _TIGHTEST = 0.5, 1e-4


@dataclass(frozen=True)
class TargetMetric(Sizes, RankRule):
    """Cut as deep as the metric allows, without a size or tolerance set by hand.

    At an attempt the layers are cut at several levels of energy, one level for all layers; after each the
    metric is measured, without any retraining, and the cut is taken back. Bisection finds the deepest level
    at which the metric is at most ``tolerance`` worse than before. What is lost is recovered in training, so
    cut when the metric no longer improves fast (:class:`AutoSchedule`), and give a :class:`Rollback` that
    looks at the metric once more after recovery.

    A metric that loses nothing now does not say that the states are worth nothing: a model that is still
    learning may come to need them (on sequential MNIST a cut as deep as this at a fifth of training cost
    three points in the end). So the attempts before the last go no deeper than ``early``, and the last
    belongs late (``AutoSchedule(last=0.8)``).

    Args:
        evaluate: Measures the model as it is: a validation score, say. Called at most ``trials + 1`` times
            an attempt; it must leave the model in the mode it found. Random numbers it draws are given back.
        tolerance: How much worse the metric may be right after the cut, in its own unit.
        mode: Whether a good metric is large ("max") or small ("min").
        trials: Levels to try; each halves the ratio between the tightest and the loosest.
        early: Share of the sum of Hankel singular values that an attempt before the last may discard.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``.

    Raises:
        ValueError: If an argument is out of range.
    """

    evaluate: Callable[[], float]
    tolerance: float = 0.005
    mode: Literal["max", "min"] = "max"
    trials: int = 7
    early: float = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(
                f"TargetMetric: tolerance is {self.tolerance}; it must be a number of at least 0"
            )
        if self.mode not in get_args(Literal["max", "min"]):
            raise ValueError(f"TargetMetric: mode is {self.mode!r}; choose 'max' or 'min'")
        if self.trials < 1:
            raise ValueError(f"TargetMetric: trials is {self.trials}; it must be at least 1")
        if not _TIGHTEST < self.early <= _LOOSEST:
            raise ValueError(
                f"TargetMetric: early is {self.early}; it must be in ({_TIGHTEST:g}, {_LOOSEST:g}]"
            )

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """What is known without trying: the sizes there are."""
        del attempt, attempts
        return [Target(order=spectrum.state_dim) for spectrum in spectra]

    def search(self, plan: Callable[[RankRule], CutPlan], *, last: bool = True) -> CutPlan:
        """The plan of the deepest cut that the metric allows, not applied.

        Args:
            plan: Plans the cut of a rule, without making it.
            last: Whether no attempt follows.

        Raises:
            ValueError: If the metric before any cut is not a number.
        """
        before = self._measure()
        if not math.isfinite(before):
            raise ValueError(f"TargetMetric: the metric is {before} before the cut; it must be a number")
        best = plan(self)
        tight, loose = math.log(_TIGHTEST), math.log(_LOOSEST if last else self.early)
        # An early attempt goes so little deep that it nearly always may go all the way.
        level = 0.5 * (tight + loose) if last else loose
        for _ in range(self.trials):
            candidate = plan(self._rule(math.exp(level)))
            if self._loss(candidate, before) <= self.tolerance:
                best, tight = candidate, level
            else:
                loose = level
            if tight == loose:
                break
            level = 0.5 * (tight + loose)
        return best

    def _loss(self, candidate: CutPlan, before: float) -> float:
        """How much worse the metric is after a cut, which is taken back."""
        candidate.apply()
        try:
            after = self._measure()
        finally:
            candidate.revert()
        return before - after if self.mode == "max" else after - before

    def _rule(self, tolerance: float) -> EnergyRank:
        return EnergyRank(
            tolerance=tolerance,
            threshold=1.0,
            multiple_of=self.multiple_of,
            minimum=self.minimum,
            maximum=self.maximum,
        )

    def _measure(self) -> float:
        with torch.random.fork_rng():
            return float(self.evaluate())
