"""What a training run left behind, as typed values.

A run is a folder with `config.json`, `metrics.jsonl` and `cuts.jsonl`; `reading.read_run` turns it
into a `Run`. Nothing here is estimated: a value that the run did not write is None, except where a
property's docstring says from what it is derived.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import Check


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of `metrics.jsonl`: training, validation or test.

    `accuracy` is a fraction; `metric` names what the run's task is compared by, if the run says so, and
    `value` is that figure, where the line has it; `rollout` is the median normalised error of free runs, of
    the test where outputs are the next inputs; `step_seconds` is the median time of a step since the
    line before; `states` has one size per layer.
    """

    step: int
    loss: float | None = None
    accuracy: float | None = None
    metric: str | None = None
    value: float | None = None
    rollout: float | None = None
    learning_rate: float | None = None
    states: tuple[int, ...] = ()
    parameters: int | None = None
    step_seconds: float | None = None
    elapsed_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The steps after a cut and up to the next: sizes, and the median seconds of a step."""

    after: int
    states: tuple[int, ...] = ()
    step_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The closing line of a run; times in seconds.

    `floor_*` is the time of a step with the recurrences taken out: what no cut can save. `flops_per_step` and
    `streamed_per_second` (steps one at a time, one sequence) are of the final model, `peak_memory` is in
    bytes, `total_seconds` contain those of a teacher, and `evaluation_seconds`, for scores on validation and
    test data. Runs of older versions lack the later fields.
    """

    parameters: int | None = None
    states: tuple[int, ...] = ()
    total_seconds: float | None = None
    step_seconds_before: float | None = None
    step_seconds_after: float | None = None
    cut_seconds: float | None = None
    floor_before: float | None = None
    floor_after: float | None = None
    flops_per_step: float | None = None
    peak_memory: float | None = None
    streamed_per_second: float | None = None
    recompilations: int | None = None
    teacher_seconds: float | None = None
    evaluation_seconds: float | None = None
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerCut:
    """What one attempt did to one layer; `old == new` where it left the layer alone.

    `hankel_singular_values` descend, and the first `kept_values` of them stayed. The real form has two per
    state, the complex form one.
    `note` says why the layer got fewer states than the rule asked for.
    """

    name: str
    old: int
    new: int
    error_bound: float | None = None
    error: float | None = None
    hankel_singular_values: tuple[float, ...] = ()
    kept_values: int | None = None
    realization: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One attempt to cut the model."""

    step: int
    attempt: int
    layers: tuple[LayerCut, ...]
    seconds: float | None = None

    @property
    def changed(self) -> bool:
        """Whether any layer became smaller."""
        return any(layer.new != layer.old for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. `notes` say in words what its folder lacks."""

    folder: Path
    config: Mapping[str, Any]
    train: tuple[Measurement, ...] = ()
    validation: tuple[Measurement, ...] = ()
    test: Measurement | None = None
    summary: Summary | None = None
    cuts: tuple[Cut, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """The method the run belongs to, such as `compressm`, `full` or `scratch`."""
        return str(self.config["arm"])

    @property
    def task(self) -> str:
        """The name of the task, empty if the config has none."""
        return str(self.config.get("task", ""))

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def name(self) -> str:
        """The run in words, for captions and notes."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the run wrote its closing line or its test result."""
        return self.summary is not None or self.test is not None

    @property
    def effective_cuts(self) -> tuple[Cut, ...]:
        """The attempts that made a layer smaller."""
        return tuple(cut for cut in self.cuts if cut.changed)

    @property
    def initial_states(self) -> tuple[int, ...]:
        """Sizes before the first cut, from the first cut, else the config, else the first line."""
        if self.cuts:
            return tuple(layer.old for layer in self.cuts[0].layers)
        if configured := configured_states(self.config):
            return configured
        return next((line.states for line in (*self.train, *self.validation) if line.states), ())

    @property
    def final_states(self) -> tuple[int, ...]:
        """Sizes at the end: as summed up or tested, else the latest that the log or the cuts show."""
        for closing in (self.summary, self.test):
            if closing is not None and closing.states:
                return closing.states
        seen = [(line.step, 0, line.states) for line in (*self.train, *self.validation) if line.states]
        seen += [(cut.step, 1, tuple(layer.new for layer in cut.layers)) for cut in self.cuts]
        return max(seen)[2] if seen else self.initial_states

    @property
    def parameters(self) -> int | None:
        """The parameter count at the end."""
        counts = [closing.parameters for closing in (self.summary, self.test) if closing is not None]
        return next((count for count in counts if count is not None), None)

    @property
    def test_accuracy(self) -> float | None:
        """The fraction of right answers on the test set; never a validation score in its place."""
        return None if self.test is None else self.test.accuracy

    @property
    def test_loss(self) -> float | None:
        """The loss on the test set."""
        return None if self.test is None else self.test.loss

    @property
    def test_rollout(self) -> float | None:
        """Median error of the test's free runs, if outputs are the next inputs."""
        return None if self.test is None else self.test.rollout

    @property
    def step_seconds_before(self) -> float | None:
        """Median seconds of a step before the first cut, None for a run that was never cut.

        From the summary; without one, the median over the training lines up to the first cut.
        """
        if not self.effective_cuts:
            return None
        if self.summary is not None and self.summary.step_seconds_before is not None:
            return self.summary.step_seconds_before
        first = self.effective_cuts[0].step
        return _median(line.step_seconds for line in self.train if line.step <= first)

    @property
    def step_seconds_final(self) -> float | None:
        """Median seconds of a step at the final size (of the whole run, if it was never cut)."""
        if self.summary is not None:
            after, before = self.summary.step_seconds_after, self.summary.step_seconds_before
            if after is not None:
                return after
            if before is not None and not self.effective_cuts:
                return before
        last = self.effective_cuts[-1].step if self.effective_cuts else -1
        return _median(line.step_seconds for line in self.train if line.step > last)

    @property
    def floor_before(self) -> float | None:
        """Seconds of a step without recurrences before the first cut, where it was measured."""
        return self.summary.floor_before if self.summary is not None and self.effective_cuts else None

    @property
    def floor_final(self) -> float | None:
        """Seconds of a step without recurrences at the final size, where it was measured."""
        if self.summary is None:
            return None
        if self.summary.floor_after is None and not self.effective_cuts:
            return self.summary.floor_before
        return self.summary.floor_after

    @property
    def speedup(self) -> float | None:
        """Step time before the cuts over step time after them."""
        before, final = self.step_seconds_before, self.step_seconds_final
        return before / final if before and final else None

    @property
    def total_seconds(self) -> float | None:
        """Seconds of the whole run; without a summary, up to the last line of the log."""
        if self.summary is not None and self.summary.total_seconds is not None:
            return self.summary.total_seconds
        elapsed = [line.elapsed_seconds for line in (*self.train, *self.validation)]
        return max((value for value in elapsed if value is not None), default=None)

    @property
    def training_seconds(self) -> float | None:
        """Seconds of the whole run without its scores on validation and test data; None if not told apart."""
        evaluation = None if self.summary is None else self.summary.evaluation_seconds
        return None if evaluation is None or self.total_seconds is None else self.total_seconds - evaluation

    @property
    def cut_seconds(self) -> float | None:
        """Seconds spent on all attempts, None for a run that made none."""
        if not self.cuts:
            return None
        if self.summary is not None and self.summary.cut_seconds is not None:
            return self.summary.cut_seconds
        seconds = [cut.seconds for cut in self.cuts if cut.seconds is not None]
        return sum(seconds) if seconds else None


def configured_states(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the sizes a config asks for, one per layer, or () if it does not say."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return ()
    states = model.get("state_dim")
    if isinstance(states, int):
        layers = model.get("num_layers", 1)
        return (states,) * (layers if isinstance(layers, int) else 1)
    if isinstance(states, Sequence) and all(isinstance(size, int) for size in states):
        return tuple(states)
    return ()


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
