"""Cuts of trained models without retraining: accuracy against states for each reduction.

python experiments/oneshot.py RUN [RUN ...] --out FOLDER [--sizes 6 8 12 16 24 48] [--data-dir DATA]

RUN is the folder of a run that kept its size (`make demo` leaves two in runs/demo/full-seed*). Calibration
batches are of the training data; the accuracy is that of the test set.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import compressm
from compressm.compression.oneshot import compress_with_record
from compressm.data import Batches, Splits, load
from compressm.training import RunFolder, evaluate

REDUCTIONS: dict[str, dict[str, Any]] = {
    "states (default)": {"reduction": "states"},
    "gradients": {"reduction": "gradients"},
    "covariance": {"reduction": "covariance"},
    "balanced": {"reduction": "balanced"},
    "balanced, complex (published)": {"reduction": "balanced", "realization": "complex"},
}


def main() -> None:
    """Cut, score, and write results.json, table.md and accuracy.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 6, 8, 12, 16, 24, 48])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--calibration", type=int, default=256, help="sequences")
    given = parser.parse_args()
    results = [result for run in given.runs for result in cut_run(run, given)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = make_table(results, given.sizes)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    draw(results, given.sizes).savefig(given.out / "accuracy.png", dpi=150, bbox_inches="tight")
    print(table)


def cut_run(run: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every reduction at every size of one trained model."""
    config = RunFolder(run).read_config()
    splits = load(config.task, data_dir=given.data_dir or config.data_dir)
    model = compressm.load(RunFolder(run).model_path)
    full = evaluate(model, splits.test).accuracy  # type: ignore[arg-type]
    found = []
    for name, options in REDUCTIONS.items():
        for size in given.sizes:
            small = copy.deepcopy(model)
            cut = compress_with_record(
                small,
                rank=compressm.FixedRank(size),
                calibration=calibration(splits, given.calibration),
                loss=F.cross_entropy,
                **options,
            )
            accuracy = evaluate(small, splits.test).accuracy  # type: ignore[arg-type]
            sizes = [layer.new for layer in cut.layers]
            found.append(
                {"run": run.name, "reduction": name, "size": size, "states": sizes, "accuracy": accuracy}
                | {"full": full, "seconds": cut.seconds, "seed": config.seed, "steps": config.steps}
            )
            print(f"{run.name}, {name}, {size}: {accuracy:.3f} of {full:.3f}", flush=True)
    return found


def calibration(splits: Splits, count: int) -> Iterator[tuple[tuple[Tensor, Tensor | None], Tensor]]:
    """Training sequences, always the same."""
    batches = Batches(splits.train, 64, seed=0)
    for _ in range(-(-count // 64)):
        inputs, targets, lengths = next(batches)
        yield (inputs, lengths), targets


def make_table(results: list[dict[str, Any]], sizes: list[int]) -> str:
    """Mean accuracy, with every model's own in brackets."""
    full = {result["run"]: result["full"] for result in results}
    of_full = ", ".join(f"{100 * accuracy:.1f}" for accuracy in full.values())
    lines = [
        f"Test accuracy in % without retraining; full size: {of_full}",
        "",
        "| states | " + " | ".join(REDUCTIONS) + " |",
        "|---:|" + "---|" * len(REDUCTIONS),
    ]
    for size in sizes:
        cells = []
        for name in REDUCTIONS:
            found = [100 * r["accuracy"] for r in results if r["reduction"] == name and r["size"] == size]
            each = ", ".join(f"{a:.1f}" for a in found)
            cells.append(f"{statistics.mean(found):.1f} ({each})")
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: list[dict[str, Any]], sizes: list[int]) -> Figure:
    """Mean accuracy against states, a line for each reduction, a dot for each model."""
    figure = Figure(figsize=(5.6, 3.6))
    axes = figure.add_subplot()
    colours = ("#0072B2", "#56B4E9", "#009E73", "#B8860B", "#D55E00")
    for colour, name in zip(colours, REDUCTIONS, strict=True):
        of_method = [r for r in results if r["reduction"] == name]
        means = [
            statistics.mean(100 * r["accuracy"] for r in of_method if r["size"] == size) for size in sizes
        ]
        axes.plot(sizes, means, color=colour, label=name)
        axes.plot([r["size"] for r in of_method], [100 * r["accuracy"] for r in of_method], ".", color=colour)
    full = statistics.mean(100 * r["full"] for r in results)
    axes.axhline(full, color="#6b7280", linewidth=0.8, linestyle="--", label="full size")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("states kept")
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
