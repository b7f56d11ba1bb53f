"""Reading run folders, with errors that name the file, the line and the remedy."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .checks import Check
from .fields import Record, integer, is_number, number, numbers, optional_integer, states
from .runs import Cut, LayerCut, Measurement, Run, Stage, Summary


def read_run(path: str | Path) -> Run:
    """Read one run folder.

    A run that was stopped half-way is read as far as it got: `Run.notes` says what is missing. A last
    line that was cut off while being written is left out, with a note. Where a resumed run repeats
    steps, the later lines count. Unknown keys are ignored.

    Args:
        path: folder with `config.json` and, as far as the run got, `metrics.jsonl`, `cuts.jsonl` and
            `hsv.jsonl`.

    Raises:
        FileNotFoundError: the folder or its `config.json` does not exist.
        ValueError: a file holds something that is not a run's; names file and line.
    """
    folder = Path(path)
    config = _read_config(folder)
    metrics, metric_notes = _read_lines(folder / "metrics.jsonl")
    cut_records, cut_notes = _read_lines(folder / "cuts.jsonl")
    check_records, check_notes = _read_lines(folder / "hsv.jsonl")
    train: list[Measurement] = []
    validation: list[Measurement] = []
    test: Measurement | None = None
    summary: Summary | None = None
    for record, place in metrics:
        kind = record.get("kind")
        if kind == "train":
            _append(train, _measurement(record, place))
            # A run that trains on after its summary was resumed: what it wrote then no longer holds.
            test = summary = None
        elif kind == "validation":
            _append(validation, _measurement(record, place))
        elif kind == "test":
            test = _measurement(record, place)
        elif kind == "summary":
            summary = _summary(record, place)
        elif not isinstance(kind, str):
            raise ValueError(f"{place}: 'kind' is {kind!r}; expected train, validation, test or summary")
    cuts: list[Cut] = []
    for record, place in cut_records:
        _append(cuts, _cut(record, place))
    run = Run(
        folder=folder,
        config=config,
        train=tuple(train),
        validation=tuple(validation),
        test=test,
        summary=summary,
        cuts=tuple(cuts),
        checks=_checks(check_records),
    )
    notes = (*metric_notes, *cut_notes, *check_notes, *_missing(run))
    return Run(**{**vars(run), "notes": notes})


def read_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read several runs; a folder that is no run itself stands for the runs directly inside it.

    Raises:
        FileNotFoundError: a folder does not exist or holds no run.
        ValueError: no folder was given, or a run cannot be read (see `read_run`).
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if (path / "config.json").is_file() or not path.is_dir():
            runs.append(read_run(path))
            continue
        inside = sorted(config.parent for config in path.glob("*/config.json"))
        if not inside:
            raise FileNotFoundError(
                f"{path}: no run here: neither it nor a folder directly inside it has a config.json; "
                "give the folder that `compressm train` wrote to"
            )
        runs.extend(map(read_run, inside))
    if not runs:
        raise ValueError("no run folder given; name at least one")
    return runs


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder; check the path")
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, so {folder} is no run; give a folder with a config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); restore the file or leave this run out"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path}: holds a {type(config).__name__}; expected an object with the run's settings"
        )
    arm = config.get("arm")
    if not isinstance(arm, str) or not arm:
        raise ValueError(f"{path}: 'arm' is {arm!r}; expected the name of the method, such as \"compressm\"")
    return config


def _read_lines(path: Path) -> tuple[list[tuple[dict[str, Any], str]], list[str]]:
    """Return the records of a JSON-lines file with their places, and notes on what was left out."""
    if not path.is_file():
        return [], []
    lines = path.read_bytes().split(b"\n")
    cut_off = lines[-1]  # empty when the file ends with a newline, as every finished line does
    records: list[tuple[dict[str, Any], str]] = []
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {count}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if count == len(lines) and cut_off:
                return records, [f"the last line of {path.name} (line {count}) was cut off and is left out"]
            raise ValueError(f"{place}: not valid JSON ({error}); repair or delete this line") from error
        if not isinstance(record, dict):
            raise ValueError(f"{place}: holds a {type(record).__name__}; expected an object")
        records.append((record, place))
    return records, []


def _append(lines: list[Any], line: Any) -> None:
    """Append in order of steps: what a resumed run did again replaces what it did before."""
    while lines and lines[-1].step >= line.step:
        lines.pop()
    lines.append(line)


def _checks(records: Iterable[tuple[Record, str]]) -> tuple[Check, ...]:
    """Read the checks of all layers; each layer's are in order of steps, as in `_append`."""
    by_layer: dict[str, list[Check]] = {}
    for record, place in records:
        check = _check(record, place)
        _append(by_layer.setdefault(check.layer, []), check)
    return tuple(check for checks in by_layer.values() for check in checks)


def _missing(run: Run) -> list[str]:
    notes = []
    if not run.train:
        notes.append("no training line: the run ended before it wrote one")
    if run.test is None:
        reached = max((line.step for line in (*run.train, *run.validation)), default=0)
        planned = run.config.get("steps")
        of = f" of {planned:,}" if isinstance(planned, int) else ""
        notes.append(f"no test result: the log ends at step {reached:,}{of}")
    if run.summary is None:
        notes.append("no closing summary: times are taken from the training log")
    return notes


def _measurement(record: Record, place: str) -> Measurement:
    metric = record.get("metric")
    if metric is not None and not isinstance(metric, str):
        raise ValueError(f"{place}: 'metric' is {metric!r}; expected the name of a figure, such as accuracy")
    return Measurement(
        step=integer(record, "step", place),
        loss=number(record, "loss", place),
        accuracy=number(record, "accuracy", place),
        metric=metric,
        value=None if metric is None else number(record, metric, place),
        rollout=number(record, "rollout_nrmse", place),
        learning_rate=number(record, "learning_rate", place),
        states=states(record, place),
        parameters=optional_integer(record, "parameters", place),
        step_seconds=number(record, "step_seconds", place),
        elapsed_seconds=number(record, "elapsed_seconds", place),
    )


def _summary(record: Record, place: str) -> Summary:
    floor = record.get("floor_seconds") or {}
    if not isinstance(floor, Mapping):
        raise ValueError(f"{place}: 'floor_seconds' is {floor!r}; expected an object with before and after")
    return Summary(
        parameters=optional_integer(record, "parameters", place),
        states=states(record, place),
        total_seconds=number(record, "total_seconds", place),
        step_seconds_before=number(record, "step_seconds_before", place),
        step_seconds_after=number(record, "step_seconds_after", place),
        cut_seconds=number(record, "cut_seconds", place),
        floor_before=number(floor, "before", place),
        floor_after=number(floor, "after", place),
        flops_per_step=number(record, "flops_per_step", place),
        peak_memory=number(record, "peak_memory", place),
        streamed_per_second=number(record, "streamed_per_second", place),
        recompilations=optional_integer(record, "recompilations", place),
        teacher_seconds=number(record, "teacher_seconds", place),
        evaluation_seconds=number(record, "evaluation_seconds", place),
        stages=tuple(_stage(stage, place) for stage in record.get("stages") or ()),
    )


def _stage(record: Record, place: str) -> Stage:
    return Stage(
        after=integer(record, "after", place),
        states=states(record, place),
        step_seconds=number(record, "step_seconds", place),
    )


def _cut(record: Record, place: str) -> Cut:
    layers = record.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError(f"{place}: 'layers' is {layers!r}; expected a list of objects, one per layer")
    return Cut(
        step=integer(record, "step", place),
        attempt=integer(record, "attempt", place),
        seconds=number(record, "seconds", place),
        layers=tuple(_layer(layer, place) for layer in layers),
    )


def _layer(record: Record, place: str) -> LayerCut:
    name = record.get("name")
    values = record.get("hankel_singular_values")
    values = [] if values is None else values
    if not isinstance(values, list) or not all(is_number(value) for value in values):
        raise ValueError(f"{place}: 'hankel_singular_values' of layer {name!r} is not a list of numbers")
    return LayerCut(
        name=str(name),
        old=integer(record, "old", place),
        new=integer(record, "new", place),
        error_bound=number(record, "error_bound", place),
        error=number(record, "error", place),
        hankel_singular_values=tuple(float(value) for value in values),
        kept_values=optional_integer(record, "kept_values", place),
        realization=str(record["realization"]) if record.get("realization") is not None else None,
        note=str(record.get("note") or ""),
    )


def _check(record: Record, place: str) -> Check:
    layer = record.get("layer")
    if not isinstance(layer, str):
        raise ValueError(f"{place}: 'layer' is {layer!r}; expected a layer's name")
    optional = ("bottom", "distance", "moved", "rank_correlation", "kept", "best")
    return Check(
        step=integer(record, "step", place),
        layer=layer,
        hankel_singular_values=numbers(record, "hankel_singular_values", place),
        tracks=tuple(int(track) for track in numbers(record, "tracks", place)),
        boundary=optional_integer(record, "boundary", place),
        crossings=optional_integer(record, "crossings", place),
        since=optional_integer(record, "since", place),
        **{key: number(record, key, place) for key in optional},
    )
