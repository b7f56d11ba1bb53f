"""Runs that differ in nothing but their seed, and statistics over them."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .numbers import sizes
from .runs import Run

# What makes two runs of one arm the same experiment. Everything else in a config (command, folders,
# device, versions) may differ between repetitions.
_IDENTITY = ("task", "steps", "batch_size", "model", "compression", "optimizer")
_ARM_ORDER = ("compressm", "full", "scratch")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one arm with equal settings: the repetitions over which a mean is taken."""

    label: str
    runs: tuple[Run, ...]

    @property
    def arm(self) -> str:
        """The method of these runs."""
        return self.runs[0].arm

    @property
    def task(self) -> str:
        """The task of these runs."""
        return self.runs[0].task

    @property
    def finished(self) -> bool:
        """Whether these runs came to their end (a group is wholly of one kind)."""
        return self.runs[0].finished

    @property
    def is_cut(self) -> bool:
        """Whether any run was made smaller in training."""
        return any(run.effective_cuts for run in self.runs)

    @property
    def final_states(self) -> float | None:
        """Final states per layer, averaged over layers and runs."""
        return self.mean(lambda run: mean_size(run.final_states))

    @property
    def initial_states(self) -> float | None:
        """Initial states per layer, averaged over layers and runs."""
        return self.mean(lambda run: mean_size(run.initial_states))

    @property
    def states_label(self) -> str:
        """Final sizes in words: those of every run if they agree, else mean and range per layer."""
        return _states_label([run.final_states for run in self.runs])

    def values(self, value: Callable[[Run], float | None]) -> list[float]:
        """Return the value of every run that has one."""
        return [found for run in self.runs if (found := value(run)) is not None]

    def mean(self, value: Callable[[Run], float | None]) -> float | None:
        """Return the mean over the runs that have a value, None if none has."""
        return mean(self.values(value))


def mean(values: Sequence[float]) -> float | None:
    """Return the arithmetic mean, None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    # statistics.stdev takes the values to exact fractions, which NaN does not have.
    return float("nan") if any(value != value for value in values) else statistics.stdev(values)


def mean_size(states: Sequence[int]) -> float | None:
    """Return the states per layer."""
    return mean(states)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Group runs by arm and settings, seeds in order.

    For a rule that leaves the same size in every seed this is grouping by arm and final size; where
    sizes differ between seeds (energy rule), the seeds stay together. Runs that were stopped form
    groups of their own. Groups come as compressm, full, scratch, then other arms by name; within an
    arm from the largest to the smallest final size.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        # Without what is not set: a setting that older runs do not know separates none.
        settings = flatten({key: run.config[key] for key in _IDENTITY if key in run.config})
        identity = [run.arm, run.finished, settings]
        found.setdefault(json.dumps(identity, sort_keys=True, default=str), []).append(run)
    groups = [
        Group(label=members[0].arm, runs=tuple(sorted(members, key=_seed_order)))
        for members in found.values()
    ]
    return _told_apart(sorted(groups, key=_order))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted keys and printable values, without those that are None."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _seed_order(run: Run) -> tuple[float, str]:
    return (float("inf") if run.seed is None else run.seed, run.folder.name)


def _order(group: Group) -> tuple[str, bool, int, str, float]:
    arm = _ARM_ORDER.index(group.arm) if group.arm in _ARM_ORDER else len(_ARM_ORDER)
    return (group.task, not group.finished, arm, group.arm, -(group.final_states or 0))


def _told_apart(groups: list[Group]) -> list[Group]:
    """Add to the label of groups that would look the same the settings in which they differ."""
    told = []
    for group in groups:
        label = group.label
        twins = [
            _settings(other)
            for other in groups
            if (other.arm, other.task, other.finished, other.states_label)
            == (group.arm, group.task, group.finished, group.states_label)
        ]
        if len(twins) > 1:
            own = _settings(group)
            differing = [key for key in own if len({str(twin.get(key)) for twin in twins}) > 1]
            label += "".join(f", {key.rpartition('.')[2].replace('_', ' ')} {own[key]}" for key in differing)
        told.append(replace(group, label=label if group.finished else f"{label} (stopped)"))
    return told


def _settings(group: Group) -> dict[str, str]:
    config = group.runs[0].config
    return flatten({key: config[key] for key in _IDENTITY if key in config})


def _states_label(final: Sequence[tuple[int, ...]]) -> str:
    if len(set(final)) == 1:
        return sizes(final[0])
    means = [value for states in final if (value := mean_size(states)) is not None]
    if not means:
        return sizes(())
    return f"{statistics.fmean(means):,.1f} ({min(means):,.4g}–{max(means):,.4g})"
