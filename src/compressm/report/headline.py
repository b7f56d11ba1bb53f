"""The result in one sentence, from the arms that are there."""

from collections.abc import Sequence
from dataclasses import dataclass

from .groups import Group, deviation, group_runs
from .metric import Metric, metric_of
from .numbers import fixed, plural, sizes, times
from .runs import Run

_SAME_SPEED = 0.05  # ratios of step times nearer to 1 than this are told as "as fast as"


@dataclass(frozen=True)
class Headline:
    """The finding, what it compares with, and on what it rests."""

    finding: str
    comparison: str
    basis: str

    @property
    def text(self) -> str:
        """Finding and comparison in one line."""
        return f"{self.finding} — {self.comparison}" if self.comparison else self.finding


def headline(runs: Sequence[Run]) -> Headline:
    """Say what came out: size, score, distance to scratch and full model, speed.

    The sentence is about the compressed arm (`compressm`, else any arm that was cut); of several
    sizes the smallest that has a from-scratch control of its size, else the smallest. Without a
    compressed arm it is about the best one. Comparisons for which an arm is missing are left out.

    Raises:
        ValueError: no run is given.
    """
    groups = group_runs(runs)
    if not groups:
        raise ValueError("no runs to report; read at least one with read_run")
    metric = metric_of(runs)
    leader = leading_group(groups, metric)
    score = _score(leader, metric)
    finding = _size(leader) if leader.arm == "compressm" else f"{leader.label}: {_size(leader)}"
    finding += f", {metric.words(score, 'test')}" if score is not None else ", no test result yet"
    peers = [group for group in groups if group.task == leader.task and group.finished]
    return Headline(finding, _comparison(leader, peers, metric), _basis(leader, metric, score))


def leading_group(groups: Sequence[Group], metric: Metric) -> Group:
    """Return the group that the headline is about (see `headline`)."""
    cut = [group for group in groups if group.is_cut]
    own = [group for group in cut if group.arm == "compressm"] or cut
    tested = [group for group in own if _score(group, metric) is not None] or own
    if tested:
        controlled = [group for group in tested if _scratch_control(group, groups) is not None]
        return min(controlled or tested, key=lambda group: group.final_states or 0)
    scored = [group for group in groups if _score(group, metric) is not None]
    if not scored:
        return groups[0]
    sign = 1 if metric.higher_is_better else -1
    return max(scored, key=lambda group: sign * (_score(group, metric) or 0))


def _score(group: Group, metric: Metric) -> float | None:
    return group.mean(lambda run: metric.of(run.test))


def _scratch_control(leader: Group, groups: Sequence[Group]) -> Group | None:
    """Return the from-scratch group of the leader's size: equal, or within a twentieth of it."""
    size = leader.final_states
    found = [
        group
        for group in groups
        if group.arm == "scratch" and group.task == leader.task and group.final_states is not None
    ]
    if size is None or not found:
        return None
    nearest = min(found, key=lambda group: abs((group.final_states or 0) - size))
    return nearest if abs((nearest.final_states or 0) - size) <= max(0.5, size / 20) else None


def _size(group: Group) -> str:
    finals = {run.final_states for run in group.runs}
    if len(finals) > 1 or len(set(next(iter(finals)))) > 1:
        mean = group.final_states
        several = any(len(states) > 1 for states in finals)
        return f"{fixed(mean, 1)} states{' per layer' if several else ''} on average"
    states = finals.pop()
    if not states:
        return "unknown size"
    return plural(states[0], "state") + (" per layer" if len(states) > 1 else "")


def _comparison(leader: Group, peers: Sequence[Group], metric: Metric) -> str:
    score = _score(leader, metric)
    scratch = _scratch_control(leader, peers)
    full = next((group for group in peers if group.arm == "full" and group is not leader), None)
    parts: list[str] = []
    if score is not None and leader.is_cut:
        if scratch is not None and (other := _score(scratch, metric)) is not None:
            equal = scratch.final_states == leader.final_states
            name = "the same size" if equal else f"{scratch.states_label} states"
            parts.append(metric.difference(score, other, f"{name} trained from scratch", unit=True))
        if full is not None and (other := _score(full, metric)) is not None:
            size = sizes(full.runs[0].final_states)
            parts.append(metric.difference(score, other, f"the full model ({size} states)", unit=not parts))
    speed = _speed(leader, full)
    return "; ".join(part for part in (", ".join(parts), speed) if part)


def _speed(leader: Group, full: Group | None) -> str:
    final = leader.mean(lambda run: run.step_seconds_final)
    if not leader.is_cut or not final:
        return ""
    if full is not None and (whole := full.mean(lambda run: run.step_seconds_final)):
        return _faster(whole / final, "than full", "the full model's")
    if before := leader.mean(lambda run: run.step_seconds_before):
        return _faster(before / final, "than before the cuts", "before the cuts")
    return ""


def _faster(ratio: float, than: str, alike: str) -> str:
    if abs(ratio - 1) < _SAME_SPEED:
        return f"steps as fast as {alike}"
    return f"steps {times(ratio)} faster {than}" if ratio > 1 else f"steps {times(1 / ratio)} slower {than}"


def _basis(leader: Group, metric: Metric, score: float | None) -> str:
    run = leader.runs[0]
    if score is None:
        last = next((line for line in reversed(run.validation) if metric.of(line) is not None), None)
        if last is None or (value := metric.of(last)) is None:
            return "No score was recorded."
        return f"So far: {metric.words(value, 'validation')} at step {last.step:,} ({run.name})."
    values = leader.values(lambda run: metric.of(run.test))
    seeds = f"Mean of {plural(len(values), 'seed')}" if len(values) > 1 else "One seed"
    spread = deviation(values)
    if spread is not None:
        unit = " points" if metric.key == "accuracy" else ""
        seeds += f", standard deviation {fixed(spread, 1 if unit else 3)}{unit}"
    return f"{seeds}."
