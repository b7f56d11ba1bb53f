"""What a task is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressm.data.source import Source
from compressm.data.splits import Splits

Reader = Callable[[Source], Splits]
Sizes = tuple[int, int, int]
Kind = Literal["classification", "pairs", "tokens", "regression"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a generated data set is asked for.

    Attributes:
        sizes: Number of training, validation and test sequences.
        seed: Seed of everything random, not negative.
        workers: Processes or threads at work; the result does not depend on it.
        progress: Whether progress is shown on a terminal.
    """

    sizes: Sizes
    seed: int = 0
    workers: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.sizes) < 1:
            raise ValueError(f"every part needs at least one sequence, got sizes={self.sizes}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")


Generator = Callable[[Path, Recipe], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task on sequences.

    The kind says what a batch's targets are and what a model must give:

    - ``"classification"``: one class for a sequence, int64 ``(B,)``; logits ``(B, num_classes)``.
    - ``"pairs"``: one class for two sequences: inputs ``(B, 2, L, input_dim)``, lengths ``(B, 2)``, targets
      ``(B,)``; logits ``(B, num_classes)`` from the features of both.
    - ``"tokens"``: the next symbol at every step, int64 ``(B, L)``, or at the steps that ask for one, all
      others :data:`~compressm.data.IGNORE`; logits ``(B, L, num_classes)``.
    - ``"regression"``: real values at every step, float32 ``(B, L, target_dim)``; outputs of that shape.

    Attributes:
        name: What the user types.
        input_dim: Features per step of what the model reads (for one-hot tokens the vocabulary's size).
        num_classes: Number of classes or of symbols to predict; 0 for regression.
        length: Longest sequence, in steps.
        sizes: Number of training, validation and test sequences.
        description: One sentence about the task.
        origin: Where the data comes from, and its licence.
        reader: Makes the splits from a source.
        kind: What is asked of a model, see above.
        vocab_size: Number of token ids if the sequences are text, else None. ``Split.inputs`` holds the ids,
            ``Split.encode`` makes them one-hot.
        symbol: What a token is; the loss is told in bits for each.
        masked: Whether only some steps of "tokens" have a target, such as the answers to queries.
        target_dim: Real values to predict at every step; 0 unless ``kind`` is "regression".
        feedback: Whether the first ``target_dim`` inputs of a step are the targets of the step before, so
            that a model can be run on its own outputs.
        generator: Writes the task's files, for tasks whose data the project makes itself.
        needs_files: Whether the files must be given as a data folder because no place to fetch them is known.
        rate: Samples a second of what is sound in mu-law levels, else None.
    """

    name: str
    input_dim: int
    num_classes: int
    length: int
    sizes: Sizes
    description: str
    origin: str
    reader: Reader
    kind: Kind = "classification"
    vocab_size: int | None = None
    symbol: Literal["token", "character", "sample"] = "token"
    masked: bool = False
    target_dim: int = 0
    feedback: bool = False
    generator: Generator | None = None
    needs_files: bool = False
    rate: int | None = None

    @property
    def output_dim(self) -> int:
        """Width of the model's head: classes, symbols, or real values."""
        return self.target_dim if self.kind == "regression" else self.num_classes
