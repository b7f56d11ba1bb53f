"""The measure by which runs are compared: accuracy where a task has it, else loss."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .numbers import fixed
from .runs import Measurement, Run


@dataclass(frozen=True)
class Metric:
    """Accuracy in percent, or loss."""

    key: Literal["accuracy", "loss"]

    @property
    def unit(self) -> str:
        """The unit as written in headings."""
        return "%" if self.key == "accuracy" else ""

    @property
    def decimals(self) -> int:
        """Decimals of a value in the table."""
        return 2 if self.key == "accuracy" else 4

    def of(self, line: Measurement | None) -> float | None:
        """Return the value of a line of the log, accuracy in percent."""
        if line is None:
            return None
        if self.key == "loss":
            return line.loss
        return None if line.accuracy is None else 100 * line.accuracy

    def words(self, value: float, where: str) -> str:
        """Return a value in words: `86.1 % test accuracy`, `test loss 1.662`."""
        if self.key == "loss":
            return f"{where} loss {fixed(value, 3)}"
        return f"{fixed(value, 1)} % {where} accuracy"

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
    """Return accuracy if any run recorded one, else loss."""
    for run in runs:
        lines = (run.test, *run.validation, *run.train)
        if any(line is not None and line.accuracy is not None for line in lines):
            return Metric("accuracy")
    return Metric("loss")
