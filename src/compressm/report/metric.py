"""The measure by which runs are compared: what they name, else accuracy where they have it, else loss."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .numbers import fixed
from .runs import Measurement, Run

_NAMES = {"nrmse": "normalised RMSE", "rollout": "error of free runs"}


@dataclass(frozen=True)
class Metric:
    """Accuracy in percent, loss, a figure that the runs name, such as bits per character, or "rollout".

    Of all but accuracy less is better.
    """

    key: str

    @property
    def name(self) -> str:
        """The figure in words."""
        return _NAMES.get(self.key, self.key.replace("_", " "))

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        return self.key == "accuracy"

    @property
    def unit(self) -> str:
        """The unit as written in headings."""
        return "%" if self.key == "accuracy" else ""

    @property
    def decimals(self) -> int:
        """Decimals of a value in the table."""
        return 2 if self.key in ("accuracy", "perplexity") else 4

    def of(self, line: Measurement | None) -> float | None:
        """Return the value of a line of the log, accuracy in percent."""
        if line is None:
            return None
        if self.key == "accuracy":
            return None if line.accuracy is None else 100 * line.accuracy
        if self.key == "loss":
            return line.loss
        if self.key == "rollout":
            return line.rollout
        return line.value if line.metric == self.key else None

    def words(self, value: float, where: str) -> str:
        """Return a value in words: `86.1 % test accuracy`, `test loss 1.662`.

        Bits are counted, and stand before what they are for: `2.398 test bits per character`.
        """
        if self.key == "accuracy":
            return f"{fixed(value, 1)} % {where} accuracy"
        if self.key.startswith("bits_per_"):
            return f"{fixed(value, 3)} {where} {self.name}"
        return f"{where} {self.name} {fixed(value, 3)}"

    def difference(self, value: float, other: float, name: str, *, unit: bool) -> str:
        """Return in words how far `value` is from that of `name`: `12.3 points above the ...`."""
        decimals = 1 if self.key == "accuracy" else 3
        distance = f"{abs(value - other):.{decimals}f}"
        if math.isnan(value) or math.isnan(other):
            return f"not comparable with {name} (NaN)"
        if float(distance) == 0:
            return f"level with {name}"
        noun = " points" if unit and self.key == "accuracy" else ""
        return f"{distance}{noun} {'above' if value > other else 'below'} {name}"


def metric_of(runs: Iterable[Run]) -> Metric:
    """Return what the runs name if they agree, else accuracy if any run recorded one, else loss."""
    lines = [line for run in runs for line in (run.test, *run.validation, *run.train) if line is not None]
    named = {line.metric for line in lines}
    if len(named) == 1 and (name := named.pop()) is not None:
        return Metric(name)
    return Metric("accuracy" if any(line.accuracy is not None for line in lines) else "loss")
