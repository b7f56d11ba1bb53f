"""The training loop: small, deterministic for a seed and a number of threads, resumable."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from compressm.compression import Cut
from compressm.data import Splits, load
from compressm.saving import save
from compressm.scan import compile_seconds
from compressm.training.config import TrainConfig
from compressm.training.costs import start_of_costs, summarise_costs
from compressm.training.device import is_timed, matrix_precision, wait_for
from compressm.training.evaluation import evaluate, final_score
from compressm.training.floor import step_floor
from compressm.training.memory import keep_freed_memory
from compressm.training.objectives import Model
from compressm.training.run_folder import RunFolder
from compressm.training.score import Score
from compressm.training.session import Session
from compressm.training.teacher import Teacher, find_teacher


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; given to whoever watches it, after every line of metrics.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        loss: Mean training loss since the last time.
        metric: Name of what the task is compared by.
        figures: The same for other figures by name, where a training batch has them.
        states: Sizes of the layers.
        cut: The attempt that was just made, if any.
    """

    step: int
    steps: int
    loss: float
    metric: str
    states: list[int]
    figures: Mapping[str, float] = field(default_factory=dict)
    cut: Cut | None = None


Watcher = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a completed run gives."""

    model: Model
    validation: Score
    test: Score
    records: list[Cut]
    seconds: float


def train(
    config: TrainConfig,
    folder: RunFolder,
    *,
    splits: Splits | None = None,
    watch: Watcher | None = None,
    teacher_folder: Path | None = None,
) -> RunResult:
    """Train a model into a run folder.

    The test set is scored once, on the final model. The global seed of PyTorch is set from ``config.seed``,
    and the process keeps the memory that steps free (:func:`keep_freed_memory`).

    Args:
        config: All settings.
        folder: Where to write; must be empty or not exist.
        splits: The task's data, if it was loaded already.
        watch: Called with the progress of the run, and before that of its teacher, if it has one.
        teacher_folder: Run folder of the teacher, for runs that share one: it is trained there if it is not
            there yet. Beside the run's own folder, with the ending ``-teacher``, if not given.

    Raises:
        FileExistsError: If the folder holds something.
        FloatingPointError: If the loss stops being a number.
        ValueError: Naming the layer, if a cut meets one that is unstable or not finite.
    """
    folder.check_new()
    splits = splits or load(config.task, data_dir=config.data_dir)
    start_of_costs()
    place = teacher_folder or _teacher_folder(folder)
    teacher = prepare_teacher(config, place, splits=splits, watch=watch)
    session = Session(config, splits, teacher=teacher and teacher.model)
    folder.create(config)
    with matrix_precision(config.precision):
        return _run(session, folder, splits, watch, teacher)


def resume(
    folder: RunFolder,
    *,
    splits: Splits | None = None,
    watch: Watcher | None = None,
    teacher_folder: Path | None = None,
) -> RunResult:
    """Go on with a run from its newest checkpoint, as if it had never stopped.

    Arguments are those of :func:`train`.

    Raises:
        FileNotFoundError: If the folder is no run or has no checkpoint.
        ValueError: If its files are damaged.
    """
    config = folder.read_config()
    checkpoint = folder.read_checkpoint()
    splits = splits or load(config.task, data_dir=config.data_dir)
    start_of_costs()
    place = teacher_folder or _teacher_folder(folder)
    teacher = prepare_teacher(config, place, splits=splits, watch=watch)
    session = Session(config, splits, checkpoint, teacher=teacher and teacher.model)
    folder.rewind(session.step)
    with matrix_precision(config.precision):
        return _run(session, folder, splits, watch, teacher)


def prepare_teacher(
    config: TrainConfig, folder: Path, *, splits: Splits, watch: Watcher | None = None
) -> Teacher | None:
    """The teacher that the settings ask for, from ``folder``; trained there first if need be. None without.

    Raises:
        ValueError: If the folder holds a run with other settings.
    """
    if config.distillation.teacher_states is None:
        return None
    return find_teacher(
        config,
        folder,
        lambda settings, run: train(settings, run, splits=splits, watch=watch),
        lambda run: resume(run, splits=splits, watch=watch),
    )


def _teacher_folder(folder: RunFolder) -> Path:
    return folder.path.with_name(f"{folder.path.name}-teacher")


def _run(
    session: Session, folder: RunFolder, splits: Splits, watch: Watcher | None, teacher: Teacher | None
) -> RunResult:
    config = session.config
    keep_freed_memory()
    window = _Window()
    while session.step < config.steps:
        timed = is_timed(session.device, session.step + 1, first=not window.seconds)
        if timed:
            wait_for(session.device)
        began, loaded = time.perf_counter(), compile_seconds()
        loss, accuracy = _optimise(session)
        window.add(loss, accuracy)
        if timed:
            wait_for(session.device)
            # Kernels are compiled, or loaded from disk, in a run's first steps: that is no step's own time.
            loading = compile_seconds() - loaded
            window.seconds.append(time.perf_counter() - began - loading)
            if loading == 0:
                session.record_step_time(window.seconds[-1])
        checks = len(session.checks)
        cut = session.cut(loss, lambda: evaluate(session.model, splits.validation, session.objective).value)
        if cut is not None and cut.undid is not None:
            # The steps since the cut are made again; what was done to the layers stays on record.
            folder.rewind(session.step, cuts=False)
            window = _Window()
        folder.write_checks(session.checks[checks:])
        if cut is not None:
            folder.write_cut(cut)
        logged = session.step % config.log_every == 0 or session.step == config.steps
        if window.losses and (logged or cut is not None):
            progress = _log(session, folder, window, cut)
            if watch is not None:
                watch(progress)
            window = _Window()
        if session.step % config.validate_every == 0 and session.step < config.steps:
            _score(session, folder, "validation", splits)
        if session.step % config.checkpoint_every == 0 and session.step < config.steps:
            folder.write_checkpoint(session.state_dict())
    return _close(session, folder, splits, teacher)


class _Window:
    """Training metrics since the last line."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.accuracies: list[Tensor] = []
        self.seconds: list[float] = []

    def add(self, loss: Tensor, accuracy: Tensor | None) -> None:
        self.losses.append(loss)
        if accuracy is not None:
            self.accuracies.append(accuracy)


def _optimise(session: Session) -> tuple[Tensor, Tensor | None]:
    loss, accuracy = session.differentiate(session.next_batch())
    session.optimizer.step()
    session.scheduler.step()
    session.step += 1
    return loss, accuracy


def _log(session: Session, folder: RunFolder, window: _Window, cut: Cut | None) -> Progress:
    loss = torch.stack(window.losses).mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {session.step}; try a lower learning rate than "
            f"lr={session.config.optimizer.lr}"
        )
    accuracy = torch.stack(window.accuracies).mean().item() if window.accuracies else None
    figures, metric = session.objective.figures(loss, accuracy), session.objective.metric.name
    states = session.model.state_dims
    folder.write_metrics(
        kind="train",
        step=session.step,
        loss=loss,
        **figures,
        metric=metric,
        learning_rate=session.learning_rate,
        # Sizes during these steps, which a cut at their end has not touched yet.
        states=states if cut is None else [layer.old for layer in cut.layers],
        step_seconds=statistics.median(window.seconds),
        elapsed_seconds=session.elapsed,
    )
    return Progress(
        step=session.step,
        steps=session.config.steps,
        loss=loss,
        metric=metric,
        figures=figures,
        states=states,
        cut=cut,
    )


def _score(session: Session, folder: RunFolder, kind: str, splits: Splits) -> Score:
    began = time.perf_counter()
    if kind == "test":
        score = final_score(session.model, splits.test, session.objective)
    else:
        score = evaluate(session.model, splits.validation, session.objective)
    session.evaluation_seconds += time.perf_counter() - began
    folder.write_metrics(
        kind=kind,
        step=session.step,
        **score.to_dict(),
        states=session.model.state_dims,
        elapsed_seconds=session.elapsed,
    )
    return score


def _close(session: Session, folder: RunFolder, splits: Splits, teacher: Teacher | None) -> RunResult:
    score = partial(_score, session, folder, splits=splits)
    validation, test = score("validation"), score("test")
    before, after = session.step_seconds
    seconds = session.elapsed + (0.0 if teacher is None else teacher.seconds)
    folder.write_metrics(
        kind="summary",
        step=session.step,
        parameters=sum(parameter.numel() for parameter in session.model.parameters()),
        states=session.model.state_dims,
        total_seconds=seconds,
        evaluation_seconds=session.evaluation_seconds,
        step_seconds_before=before,
        step_seconds_after=after,
        cut_seconds=sum(record.seconds for record in session.records),
        floor_seconds={"after": step_floor(session.model, session.next_batch(), session.objective)},
        teacher_seconds=None if teacher is None else teacher.seconds,
        **summarise_costs(session),
    )
    save(session.model.eval(), folder.model_path)
    folder.finish()
    return RunResult(
        model=session.model, validation=validation, test=test, records=session.records, seconds=seconds
    )
