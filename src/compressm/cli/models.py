"""``compressm inspect``, ``evaluate`` and ``compress``: a trained model in a run folder."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import compressm
from compressm.cli.progress import describe_error
from compressm.cli.scores import describe_score
from compressm.compression.oneshot import compress_with_record
from compressm.data import Batches, Splits, get_task, load
from compressm.models import LanguageModel, SequenceModel
from compressm.training import (
    CompressionConfig,
    Model,
    Objective,
    RunFolder,
    TrainConfig,
    final_score,
    find_objective,
)
from compressm.training import evaluate as score

BLOCKS = "▁▂▃▄▅▆▇█"
FLOOR_DECADES = 8
CALIBRATION_SEQUENCES = 256


def inspect(run: Path, realization: Literal["real", "complex"] = "real") -> None:
    """Show each layer's size, Hankel singular values, and what energy tolerances would keep.

    Args:
        run: Run folder, or folder of a saved model, also one of Transformers.
        realization: Form to balance.
    """
    layers = compressm.inspect(_load_any(run), realization=realization)
    table = Table(
        title=f"{run}, {realization} form",
        caption="σ₁: largest Hankel singular value (HSV). Spectrum: a bar for each eighth of the HSVs, its "
        f"height their logarithm, {FLOOR_DECADES} decades in all. τ: states kept at this energy tolerance.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", overflow="fold", min_width=14)
    for heading in ("states", "σ₁"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("spectrum", no_wrap=True)
    for tolerance in layers[0].kept:
        table.add_column(f"τ={tolerance:g}", justify="right", no_wrap=True)
    for layer in layers:
        values = layer.hankel_singular_values
        table.add_row(
            layer.name,
            str(layer.state_dim),
            f"{values[0].item():.4g}",
            _sparkline(values.tolist()),
            *map(str, layer.kept.values()),
        )
    Console().print(table)


def _sparkline(values: list[float], bars: int = 8) -> str:
    """Descending values as bars, each the first of its share of them."""
    if values[0] == 0:
        return BLOCKS[0] * bars
    heights = []
    for bar in range(bars):
        ratio = values[bar * len(values) // bars] / values[0]
        decades = math.log10(ratio) if ratio > 0 else -FLOOR_DECADES
        share = 1 + max(decades, -FLOOR_DECADES) / FLOOR_DECADES
        heights.append(BLOCKS[round(share * (len(BLOCKS) - 1))])
    return "".join(heights)


def evaluate(
    run: Path, split: Literal["test", "validation", "train"] = "test", data_dir: Path | None = None
) -> None:
    """Score the run's final model.

    Args:
        run: Run folder.
        split: Which part of the data.
        data_dir: Folder with the task's data; where the run read it, if not given.
    """
    config = RunFolder(run).read_config()
    splits = load(config.task, data_dir=data_dir or config.data_dir)
    result = final_score(_load(run), getattr(splits, split), find_objective(get_task(config.task)))
    told = describe_score(result.loss, result.figures, result.metric.name)
    told = f"loss {result.loss:.4f}, {told}" if result.metric.name == "accuracy" else told
    Console().print(f"{split}: {told}", highlight=False)


def compress(run: Path, out: Path, settings: CompressionConfig, data_dir: Path | None = None) -> None:
    """Reduce the run's trained model at once, without retraining, and score it before and after.

    Args:
        run: Run folder.
        out: Folder to save the smaller model in.
        settings: How much to keep; a path over several cuts goes to its end at once.
        data_dir: Folder with the task's data; where the run read it, if not given.
    """
    config = RunFolder(run).read_config()
    objective = find_objective(get_task(config.task))
    rule = settings.rule(lambda: score(model, splits.validation, objective).value, objective.metric.mode)
    if rule is None:
        raise ValueError("say how much to keep: --rank, --tolerance, --fraction, --error-bound or --target")
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder for the smaller model")
    console = Console()
    model = _load(run)
    splits = load(config.task, data_dir=data_dir or config.data_dir)
    before = final_score(model, splits.test, objective)
    cut = compress_with_record(
        model,
        rank=rule,
        calibration=_calibration(splits, config, objective),
        loss=objective.loss,
        realization=settings.realization,
        reduction=settings.reduction,
    )
    after = final_score(model, splits.test, objective)
    compressm.save(model, out)
    (out / "cut.json").write_text(json.dumps(cut.to_dict()) + "\n", encoding="utf-8")
    for layer in cut.layers:
        console.print(
            f"{layer.name}: {layer.old} -> {layer.new} states{describe_error(layer)}",
            highlight=False,
        )
    was, now = (describe_score(found.loss, found.figures, found.metric.name) for found in (before, after))
    now = now.removeprefix("accuracy ")
    console.print(f"test {was} -> {now}; saved in {out}", highlight=False)


def _calibration(
    splits: Splits, config: TrainConfig, objective: Objective
) -> Iterator[tuple[tuple[Tensor | None, ...], Tensor]]:
    """A few batches of the training data, in the order of the run's seed."""
    batches = Batches(objective.prepare(splits.train), config.batch_size, config.seed)
    for _ in range(-(-CALIBRATION_SEQUENCES // config.batch_size)):
        batch = next(batches)
        yield objective.arguments(batch), batch.targets


def _load_any(run: Path) -> nn.Module:
    folder = RunFolder(run)
    return compressm.load(folder.model_path if folder.model_path.is_dir() else run)


def _load(run: Path) -> Model:
    model = _load_any(run)
    if not isinstance(model, SequenceModel | LanguageModel):
        raise ValueError(f"{run} holds a {type(model).__name__}; this command takes compressm's own models")
    return model
