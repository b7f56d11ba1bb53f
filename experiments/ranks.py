"""Mean ranks of reductions of trained Mamba models without retraining, over tasks and sizes.

python experiments/ranks.py experiments/results/*-oneshot --out experiments/results/ranks

Every folder holds results of `experiments/oneshot.py` with the same methods and sizes; those of other layers
are left out. Rank 1 is the best mean score at a size. Two methods are compared run by run: they share a rank
where the mean of their difference is below a tenth of its deviation, or below 0.0005. "Behind random" names
the places where a method is worse than chance by more than one deviation of that difference.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from oneshot import COLOURS, per_run

ALONE = {"the same, 5 % of values dropped": "channel by channel, 5 % of values dropped"}
"""What a method is called where the one it is told after in a table does not come before it."""

LEAST = 5e-4
"""Scores that differ by less are the same to the digits shown."""


def main() -> None:
    """Read, rank, and write table.md and ranks.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    ranks: dict[str, dict[str, list[float]]] = {}
    behind: dict[str, list[str]] = {}
    for folder in given.folders:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if any(result["reduction"].startswith("gradients") for result in results):
            rank_task(results, ranks, behind)
    if not ranks:
        raise SystemExit(f"no results of Mamba models in {', '.join(map(str, given.folders))}")
    given.out.mkdir(parents=True, exist_ok=True)
    table = make_table(ranks, behind)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    draw(ranks).savefig(given.out / "ranks.png", dpi=150, bbox_inches="tight")
    print(table)


def rank_task(
    results: list[dict[str, Any]], ranks: dict[str, dict[str, list[float]]], behind: dict[str, list[str]]
) -> None:
    """Add a task's ranks, one for each size, and the places where a method is worse than chance."""
    task, sign = results[0]["task"], 1.0 if results[0]["metric"] == "accuracy" else -1.0
    methods = list(dict.fromkeys(result["reduction"] for result in results))
    for size in sorted({result["size"] for result in results}):
        scores = {method: [sign * value for value in per_run(results, method, size)] for method in methods}
        for method, values in scores.items():
            better = sum(ahead(other, values, 0.1) for other in scores.values())
            level = sum(not ahead(o, values, 0.1) and not ahead(values, o, 0.1) for o in scores.values())
            # Those that are level share the mean of their places.
            name = ALONE.get(method, method)
            ranks.setdefault(name, {}).setdefault(task, []).append(better + (level + 1) / 2)
            behind.setdefault(name, [])
            if ahead(scores["random"], values, 1.0):
                behind[name].append(f"{task} at {size}")


def ahead(a: list[float], b: list[float], deviations: float) -> bool:
    """Whether ``a`` is better than ``b`` by so many deviations of their difference within runs."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    scatter = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    return statistics.mean(gaps) > max(deviations * scatter, LEAST)


def make_table(ranks: dict[str, dict[str, list[float]]], behind: dict[str, list[str]]) -> str:
    """Mean rank of each method: for each task, and over all tasks and sizes."""
    tasks = list(dict.fromkeys(task for of_task in ranks.values() for task in of_task))
    lines = [
        f"Mean rank over sizes, 1 to {len(ranks)}; lower is better",
        "",
        "| method | " + " | ".join(tasks) + " | all | behind random |",
        "|---|" + "---:|" * (len(tasks) + 1) + "---|",
    ]
    for method in sorted(ranks, key=lambda name: overall(ranks[name])):
        each = [f"{statistics.mean(ranks[method][task]):.1f}" for task in tasks]
        where = ", ".join(behind[method]) or "nowhere"
        lines.append(f"| {method} | {' | '.join(each)} | {overall(ranks[method]):.2f} | {where} |")
    return "\n".join(lines) + "\n"


def overall(of_task: dict[str, list[float]]) -> float:
    """Mean rank over all tasks and sizes."""
    return statistics.mean(rank for found in of_task.values() for rank in found)


def draw(ranks: dict[str, dict[str, list[float]]]) -> Figure:
    """A bar for each method, a dot for each of its tasks."""
    figure = Figure(figsize=(5.8, 3.2))
    axes = figure.add_subplot()
    order = sorted(ranks, key=lambda name: -overall(ranks[name]))
    tasks = list(dict.fromkeys(task for of_task in ranks.values() for task in of_task))
    axes.barh(order, [overall(ranks[name]) for name in order], color="#d1d5db")
    for colour, task in zip(COLOURS, tasks, strict=False):
        means = [statistics.mean(ranks[name][task]) for name in order]
        axes.plot(means, order, "o", color=colour, label=task)
    axes.set_xlim(0, len(ranks) + 0.2)
    axes.set_xlabel("mean rank over sizes (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


if __name__ == "__main__":
    main()
