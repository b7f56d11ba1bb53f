"""Settings of what training is compared with: a teacher's answers, and a pressure on the Hankel norms.

Names are also flags of the command line, which leaves out the groups: each is one of its own.
"""

from dataclasses import dataclass
from typing import Literal

from compressm.data import Task


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Learn from a full-size model that was trained before, with the same seed and the same settings."""

    teacher_states: int | None = None
    """States of every layer of the teacher; no teacher if not given."""
    temperature: float = 2.0
    """Temperature T of both models' answers."""
    alpha: float = 0.5
    """Weight of the teacher's answers, beside 1 - alpha for the labels."""

    def __post_init__(self) -> None:
        if self.teacher_states is not None and self.teacher_states < 1:
            raise ValueError(
                f"distillation.teacher_states is {self.teacher_states}; a teacher has at least 1"
            )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"distillation.temperature is {self.temperature}; it must be positive")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"distillation.alpha is {self.alpha}; it must be in [0, 1]")

    def check(self, task: Task) -> None:
        """Refuse a task whose answers are no classes.

        Raises:
            ValueError: Naming the task.
        """
        if self.teacher_states is not None and task.kind == "regression":
            raise ValueError(
                f"distillation.teacher_states is {self.teacher_states}, but task {task.name!r} asks for real "
                "values; a teacher's answers are compared as classes"
            )


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Press the Hankel singular values down in training, for a cut at the end (compression.stop = 1)."""

    hankel_weight: float | None = None
    """Factor of the layers' Hankel nuclear norms in the loss; none if not given."""
    hankel_normalization: Literal["sum", "mean", "relative"] = "sum"
    """Of a layer's values: their sum, their mean, or the sum over the root of the sum of squares."""
    hankel_realization: Literal["real", "complex"] = "real"
    """Form whose values are pressed."""
    hankel_naive: bool = False
    """By autograd through the eigenvalues of P Q, as it was published, for comparisons of cost."""
    hankel_until: float = 1.0
    """Share of training after which the term is left out."""
    hankel_refresh: int = 8
    """Steps between decompositions; between, an upper bound of the norms is pressed in their place."""

    def __post_init__(self) -> None:
        if self.hankel_weight is not None and not 0 < self.hankel_weight < float("inf"):
            raise ValueError(
                f"regularization.hankel_weight is {self.hankel_weight}; it must be positive and finite"
            )
        if not 0 < self.hankel_until <= 1:
            raise ValueError(
                f"regularization.hankel_until is {self.hankel_until}; it is a share of training, in (0, 1]"
            )
        if self.hankel_refresh < 1:
            raise ValueError(f"regularization.hankel_refresh is {self.hankel_refresh}; it must be at least 1")
