"""Cuts of trained models without retraining: the score against states for each reduction.

python experiments/oneshot.py RUN [RUN ...] --out FOLDER [--sizes 6 8 12 16 24] [--data-dir DATA] [--test N]

RUN is the folder of a run that kept its size (`make demo` leaves two in runs/demo/full-seed*, `compressm
experiment ... --keep-models` one for each run). All runs are of one task and kind of layer. Calibration
batches are of the training data; the score is that of the test set, or of its first sequences. Reductions by
chance are drawn three times.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import compressm
from compressm.adapters import MambaAdapter, find_layers
from compressm.adapters.base import HasSystem
from compressm.compression.oneshot import compress_with_record
from compressm.data import Batches, Splits, get_task, load
from compressm.rivals import RandomStates
from compressm.rivals.channelwise import channelwise
from compressm.training import RunFolder, evaluate, find_objective

DRAWS = 3
Method = dict[str, Any]

LTI: dict[str, Method] = {
    "states (default)": {"reduction": "states"},
    "gradients": {"reduction": "gradients"},
    "covariance": {"reduction": "covariance"},
    "balanced": {"reduction": "balanced"},
    "balanced, complex (published)": {"reduction": "balanced", "realization": "complex"},
}
MAMBA: dict[str, Method] = {
    "gradients (default)": {"reduction": "gradients"},
    "states": {"reduction": "states"},
    "balanced": {"reduction": "balanced"},
    "energy": {"reduction": "energy"},
    "magnitude": {"reduction": "magnitude"},
    "random": {"reduction": "random"},
    "channel by channel (published)": {"channelwise": 0.0},
    "the same, 5 % of values dropped": {"channelwise": 0.05},
}
MATRIX_STATE: dict[str, Method] = {
    "default": {"reduction": None},
    "energy": {"reduction": "energy"},
    "qr": {"reduction": "qr"},
    "magnitude": {"reduction": "magnitude"},
    "random": {"reduction": "random"},
}
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#B8860B", "#CC79A7", "#6b7280", "#D55E00", "#E69F00")


def main() -> None:
    """Cut, score, and write results.json, table.md and scores.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 6, 8, 12, 16, 24, 48])
    parser.add_argument("--methods", nargs="+", help="some of the methods, by their first words")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--test", type=int, help="sequences that are scored; the whole test set by default")
    parser.add_argument("--calibration", type=int, default=256, help="sequences")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for run in given.runs:
        results += cut_run(run, given)
        # After every run: a long comparison that is stopped keeps what it has.
        (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = make_table(results, given.sizes)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    draw(results, given.sizes).savefig(given.out / "scores.png", dpi=150, bbox_inches="tight")
    print(table)


def cut_run(run: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every reduction at every size of one trained model."""
    config = RunFolder(run).read_config()
    splits = load(config.task, data_dir=given.data_dir or config.data_dir)
    objective = find_objective(get_task(config.task))
    model: Any = compressm.load(RunFolder(run).model_path)
    test = splits.test if given.test is None else splits.test.take(given.test)
    full = evaluate(model, test, objective)
    batches = calibration(splits, objective, given.calibration)
    found = []
    for name, method in methods_for(model, given.methods).items():
        for size in given.sizes:
            for attempt in range(DRAWS if method.get("reduction") == "random" else 1):
                small, states, seconds = cut_model(model, method, size, attempt, batches, objective)
                score = evaluate(small, test, objective)
                found.append(
                    {"run": run.name, "reduction": name, "size": size, "states": states, "draw": attempt}
                    | {"metric": score.metric.name, "value": score.value, "loss": score.loss}
                    | {"full": full.value, "full_loss": full.loss, "seconds": seconds}
                    | {"task": config.task, "seed": config.seed, "steps": config.steps}
                    | ({} if given.test is None else {"scored": len(test)})
                )
                print(f"{run.name}, {name}, {size}: {score.value:.4f} of {full.value:.4f}", flush=True)
    return found


def methods_for(model: Any, chosen: list[str] | None) -> dict[str, Method]:
    """What serves the model's layers."""
    adapter = find_layers(model)[0].adapter
    if isinstance(adapter, HasSystem):
        methods = LTI
    else:
        methods = MAMBA if isinstance(adapter, MambaAdapter) else MATRIX_STATE
    if chosen is None:
        return methods
    return {name: method for name, method in methods.items() if any(name.startswith(c) for c in chosen)}


def cut_model(
    model: Any, method: Method, size: int, attempt: int, batches: Iterable[Any], objective: Any
) -> tuple[Any, list[int], float | None]:
    """A smaller copy, its sizes, and the seconds that the cut took."""
    if "channelwise" in method:
        small: Any = channelwise(model, size, batches, tolerance=method["channelwise"])
        return small, [size] * len(find_layers(model)), None
    small = copy.deepcopy(model)
    options = dict(method)
    if options["reduction"] == "random":
        options["reduction"] = RandomStates(attempt)
    cut = compress_with_record(
        small, rank=compressm.FixedRank(size), calibration=batches, loss=objective.loss, **options
    )
    return small, [layer.new for layer in cut.layers], cut.seconds


def calibration(splits: Splits, objective: Any, count: int) -> list[Any]:
    """Training sequences, always the same."""
    batches = Batches(objective.prepare(splits.train), 64, seed=0)
    drawn = [next(batches) for _ in range(-(-count // 64))]
    return [(objective.arguments(batch), batch.targets) for batch in drawn]


def make_table(results: list[dict[str, Any]], sizes: list[int]) -> str:
    """Mean score, with every model's own in brackets (of draws by chance their mean)."""
    name, scale, digits = shown(results)
    full = {result["run"]: result["full"] for result in results}
    of_full = ", ".join(f"{scale * value:.{digits}f}" for value in full.values())
    methods = list(dict.fromkeys(result["reduction"] for result in results))
    scored = results[0].get("scored")
    part = "" if scored is None else f" of the first {scored:,} sequences"
    lines = [
        f"Test {name}{part} without retraining; full size: {of_full}",
        "",
        "| states | " + " | ".join(methods) + " |",
        "|---:|" + "---|" * len(methods),
    ]
    for size in sizes:
        cells = []
        for method in methods:
            each = [scale * value for value in per_run(results, method, size)]
            told = ", ".join(f"{value:.{digits}f}" for value in each)
            cells.append(f"{statistics.mean(each):.{digits}f} ({told})")
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def per_run(results: list[dict[str, Any]], method: str, size: int) -> list[float]:
    """The score of each run, draws averaged."""
    runs = dict.fromkeys(result["run"] for result in results)
    return [
        statistics.mean(
            r["value"] for r in results if r["run"] == run and r["reduction"] == method and r["size"] == size
        )
        for run in runs
    ]


def shown(results: list[dict[str, Any]]) -> tuple[str, float, int]:
    """The metric in words, its factor and its digits."""
    metric = results[0]["metric"]
    return ("accuracy in %", 100.0, 1) if metric == "accuracy" else (metric.replace("_", " "), 1.0, 3)


def draw(results: list[dict[str, Any]], sizes: list[int]) -> Figure:
    """Mean score against states, a line for each reduction, a dot for each model."""
    name, scale, _ = shown(results)
    figure = Figure(figsize=(5.8, 3.8))
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(result["reduction"] for result in results))
    for colour, method in zip(COLOURS, methods, strict=False):
        each = [[scale * value for value in per_run(results, method, size)] for size in sizes]
        axes.plot(sizes, [statistics.mean(values) for values in each], color=colour, label=method)
        for size, values in zip(sizes, each, strict=True):
            axes.plot([size] * len(values), values, ".", color=colour)
    full = statistics.mean(scale * r["full"] for r in results)
    axes.axhline(full, color="#6b7280", linewidth=0.8, linestyle="--", label="full size")
    # A method that fails altogether must not hide how the others differ.
    if results[0]["metric"] != "accuracy":
        axes.set_ylim(top=min(axes.get_ylim()[1], full * 1.5), bottom=full * 0.98)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("states kept")
    axes.set_ylabel(f"test {name}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


if __name__ == "__main__":
    main()
