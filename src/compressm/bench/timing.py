"""Alternatives in turns: what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from compressm.training.device import wait_for

Step = Callable[[], object]

PAUSE = 0.01
"""Seconds before each measurement: another library's threads stop spinning meanwhile."""


def interleave(
    steps: Mapping[str, Step],
    rounds: int,
    *,
    device: str = "cpu",
    least_seconds: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds per step of each alternative in each round.

    Every alternative runs twice first, unmeasured. In a round each runs once, or as often in a row as makes
    up ``least_seconds``; the order turns by one from round to round.

    Args:
        steps: The alternatives by name.
        rounds: Measurements of each.
        device: ``cuda`` waits for the device around every measurement.
        least_seconds: Shortest measurement, against the clock's grain.
        clock: What to read.
        tick: Called after every round.

    Raises:
        ValueError: If ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    repeats = {}
    for name, step in steps.items():
        _seconds(step, 1, device, clock)
        first = _seconds(step, 1, device, clock)
        repeats[name] = max(1, round(least_seconds / max(first, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for _ in range(rounds):
        for name in names:
            time.sleep(PAUSE)
            found[name].append(_seconds(steps[name], repeats[name], device, clock))
        names = names[1:] + names[:1]
        if tick is not None:
            tick()
    return found


def _seconds(step: Step, repeats: int, device: str, clock: Callable[[], float]) -> float:
    wait_for(torch.device(device))
    began = clock()
    for _ in range(repeats):
        step()
    wait_for(torch.device(device))
    return (clock() - began) / repeats


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median over rounds of one alternative's time divided by another's in the same round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def bandwidth(device: str, *, megabytes: int = 256, rounds: int = 5) -> float:
    """Bytes per second of a large copy, read and written: the best of several rounds."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    seconds = interleave({"copy": lambda: target.copy_(source)}, rounds, device=device)["copy"]
    return 2 * 4 * source.numel() / min(seconds)
