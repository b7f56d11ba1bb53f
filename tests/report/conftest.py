"""Run folders as the training loop writes them, with plausible contents and no training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_run(
    folder: Path,
    *,
    arm: str = "compressm",
    seed: int = 0,
    accuracy: float | None = 0.861,
    initial: int = 256,
    final: int | None = None,
    layers: int = 1,
    cuts: int = 4,
    steps: int = 2000,
    stopped_at: int | None = None,
    floor: bool = False,
    task: str = "smnist-mini",
    **config: Any,
) -> Path:
    """Write one run; a `final` size below `initial` gives a run that is cut in its first tenth."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(arm), initial])
    final = initial if final is None else final
    attempts = cuts if final < initial else 0
    sizes = [round(initial * (final / initial) ** (j / max(attempts, 1))) for j in range(attempts + 1)]
    cut_steps = [round(0.1 * steps * j / max(attempts, 1)) for j in range(1, attempts + 1)]
    end = steps if stopped_at is None else stopped_at
    settings = {
        "version": "0.1.0",
        "arm": arm,
        "task": task,
        "seed": seed,
        "steps": steps,
        "batch_size": 50,
        "command": f"compressm train --task {task} --arm {arm} --seed {seed}",
        "model": {"mixer": "lru", "num_layers": layers, "model_dim": 8, "state_dim": [initial] * layers},
        "compression": {
            "rank": {"kind": "fixed", "rank": final},
            "schedule": {"start": 0.0, "stop": 0.1, "cuts": cuts},
            "realization": "real",
            "optimizer_state": "transport",
        }
        if attempts
        else None,
        "optimizer": {"lr": 0.004, "weight_decay": 0.05, "ssm_lr_factor": 1.0},
    }
    (folder / "config.json").write_text(json.dumps({**settings, **config}, indent=2), encoding="utf-8")

    def size_at(step: int) -> int:
        return sizes[sum(step >= cut for cut in cut_steps)]

    metrics: list[dict[str, Any]] = []
    elapsed, goal = 0.0, 0.8 if accuracy is None else accuracy
    for step in range(steps // 80, end + 1, steps // 80):
        size = size_at(step)
        seconds = (0.009 + 0.00009 * size) * (1 + 0.03 * rng.standard_normal())
        elapsed += seconds * steps / 80
        reached = 0.1 + (goal - 0.1) * (1 - math.exp(-4 * step / steps))
        common = {"step": step, "states": [size] * layers, "elapsed_seconds": elapsed}
        loss = -math.log(reached) * 1.3 * (1 + 0.04 * rng.standard_normal())
        metrics.append(
            {"kind": "train", **common, "loss": loss, "accuracy": reached, "learning_rate": 0.004,
             "step_seconds": seconds}
        )  # fmt: skip
        if step % (steps // 16) == 0:
            score = reached + 0.006 * rng.standard_normal()
            metrics.append(
                {"kind": "validation", **common, "loss": -math.log(score) * 1.3, "accuracy": score}
            )
    if stopped_at is None:
        parameters = 900 + 2 * 18 * final * layers
        closing = {"states": [final] * layers, "parameters": parameters}
        if accuracy is not None:
            loss = -1.3 * math.log(accuracy)
            metrics.append({"kind": "test", "step": steps, "loss": loss, "accuracy": accuracy, **closing})
        summary = {
            "kind": "summary",
            **closing,
            "total_seconds": elapsed,
            "evaluation_seconds": 1.5,
            "step_seconds_before": 0.009 + 0.00009 * initial,
            "step_seconds_after": 0.009 + 0.00009 * final,
            "cut_seconds": 0.12 * attempts,
        }
        if floor:
            summary["floor_seconds"] = {
                "before": 0.006 + 0.00005 * initial,
                "after": 0.006 + 0.00005 * final,
            }
        metrics.append(summary)
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "cuts.jsonl", _cuts(sizes, cut_steps, layers, end))
    return folder


def _cuts(sizes: Sequence[int], steps: Sequence[int], layers: int, end: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for attempt, (step, old, new) in enumerate(zip(steps, sizes, sizes[1:], strict=False), start=1):
        if step > end:
            break
        touched: list[dict[str, Any]] = []
        for layer in range(layers):
            scale = 6.0 + layer
            sigma = [scale * math.exp(-3.2 * (i / 40) ** 0.55 * (1 + 0.15 * attempt)) for i in range(2 * old)]
            bound = 2 * sum(sigma[2 * new :])
            touched.append(
                {"name": f"blocks.{layer}.mixer", "old": old, "new": new, "error_bound": bound,
                 "error": 0.4 * bound, "hankel_singular_values": sigma, "realization": "real"}
            )  # fmt: skip
        records.append({"step": step, "attempt": attempt, "seconds": 0.13 / attempt, "layers": touched})
    return records


def write_comparison(folder: Path, *, seeds: int = 3, layers: int = 1) -> list[Path]:
    """Write the study the headline is made for: compressm to 8, full, and 8 from scratch."""
    spread = (0.0, 0.006, -0.004, 0.002, -0.007)
    paths = []
    for seed in range(seeds):
        for arm, score, initial, final in (
            ("compressm", 0.861, 256, 8),
            ("full", 0.870, 256, 256),
            ("scratch", 0.738, 8, 8),
        ):
            name = f"{arm}-{initial}-{final}-seed{seed}"
            accuracy = score + spread[seed] * (3 if arm == "scratch" else 1)
            paths.append(
                write_run(folder / name, arm=arm, seed=seed, accuracy=accuracy, initial=initial, final=final,
                          layers=layers, floor=True)
            )  # fmt: skip
    return paths


@pytest.fixture(scope="session")
def sample() -> SimpleNamespace:
    """The writers of this file, for tests to call."""
    return SimpleNamespace(run=write_run, comparison=write_comparison, lines=write_lines)
