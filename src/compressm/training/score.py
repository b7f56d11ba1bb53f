"""How good a model is: its loss, and the figure by which runs are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    """What is compared, and whether more of it is better ("max") or less ("min").

    Names: "accuracy" (share of right answers), "bits_per_character", "bits_per_sample", "perplexity", "nrmse"
    (root mean square error over the targets' standard deviation).
    """

    name: str
    mode: Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model on a split.

    Attributes:
        loss: Mean loss: cross entropy in nats, or mean square error.
        metric: Which figure counts.
        figures: All figures by name, the metric's among them.
    """

    loss: float
    metric: Metric
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The figure that counts."""
        return self.figures[self.metric.name]

    @property
    def accuracy(self) -> float:
        """Share of right answers.

        Raises:
            KeyError: If the task has no answers that are right or wrong.
        """
        return self.figures["accuracy"]

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON: loss, all figures, and the name of the one that counts."""
        return {"loss": self.loss, **self.figures, "metric": self.metric.name}
