"""The training loop: small, deterministic for a seed and a number of threads, resumable."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.compression import Cut
from compressm.data import Splits, load
from compressm.models import SequenceClassifier, save
from compressm.training.config import TrainConfig
from compressm.training.evaluation import Score, evaluate
from compressm.training.floor import step_floor
from compressm.training.run_folder import RunFolder
from compressm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; given to whoever watches it, after every line of metrics.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        loss: Mean training loss since the last time.
        accuracy: Mean training accuracy since the last time.
        states: Sizes of the layers.
        cut: The attempt that was just made, if any.
    """

    step: int
    steps: int
    loss: float
    accuracy: float
    states: list[int]
    cut: Cut | None = None


Watcher = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a completed run gives."""

    model: SequenceClassifier
    validation: Score
    test: Score
    records: list[Cut]
    seconds: float


def train(
    config: TrainConfig, folder: RunFolder, *, splits: Splits | None = None, watch: Watcher | None = None
) -> RunResult:
    """Train a classifier into a run folder.

    The test set is scored once, on the final model. The global seed of PyTorch is set from ``config.seed``.

    Args:
        config: All settings.
        folder: Where to write; must be empty or not exist.
        splits: The task's data, if it was loaded already.
        watch: Called with the progress of the run.

    Raises:
        FileExistsError: If the folder holds something.
        FloatingPointError: If the loss stops being a number.
        ValueError: Naming the layer, if a cut meets one that is unstable or not finite.
    """
    folder.check_new()
    splits = splits or load(config.task, data_dir=config.data_dir)
    session = Session(config, splits)
    folder.create(config)
    return _run(session, folder, splits, watch)


def resume(folder: RunFolder, *, splits: Splits | None = None, watch: Watcher | None = None) -> RunResult:
    """Go on with a run from its newest checkpoint, as if it had never stopped.

    Raises:
        FileNotFoundError: If the folder is no run or has no checkpoint.
        ValueError: If its files are damaged.
    """
    config = folder.read_config()
    checkpoint = folder.read_checkpoint()
    splits = splits or load(config.task, data_dir=config.data_dir)
    session = Session(config, splits, checkpoint)
    folder.rewind(session.step)
    return _run(session, folder, splits, watch)


def _run(session: Session, folder: RunFolder, splits: Splits, watch: Watcher | None) -> RunResult:
    config = session.config
    window = _Window()
    while session.step < config.steps:
        began = time.perf_counter()
        loss, accuracy = _optimise(session)
        seconds = time.perf_counter() - began
        session.record_step_time(seconds)
        window.add(loss, accuracy, seconds)
        checks = len(session.checks)
        cut = session.cut(loss, lambda: evaluate(session.model, splits.validation).accuracy)
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
    return _close(session, folder, splits)


class _Window:
    """Training metrics since the last line."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.accuracies: list[Tensor] = []
        self.seconds: list[float] = []

    def add(self, loss: Tensor, accuracy: Tensor, seconds: float) -> None:
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        self.seconds.append(seconds)


def _optimise(session: Session) -> tuple[Tensor, Tensor]:
    inputs, targets, lengths = next(session.batches)
    session.optimizer.zero_grad(set_to_none=True)
    logits = session.model(inputs, lengths)
    loss = F.cross_entropy(logits, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    session.optimizer.step()
    session.scheduler.step()
    session.step += 1
    return loss.detach(), (logits.detach().argmax(dim=1) == targets).float().mean()


def _log(session: Session, folder: RunFolder, window: _Window, cut: Cut | None) -> Progress:
    loss = torch.stack(window.losses).mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {session.step}; try a lower learning rate than "
            f"lr={session.config.optimizer.lr}"
        )
    accuracy = torch.stack(window.accuracies).mean().item()
    states = session.model.state_dims
    folder.write_metrics(
        kind="train",
        step=session.step,
        loss=loss,
        accuracy=accuracy,
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
        accuracy=accuracy,
        states=states,
        cut=cut,
    )


def _score(session: Session, folder: RunFolder, kind: str, splits: Splits) -> Score:
    split = splits.test if kind == "test" else splits.validation
    score = evaluate(session.model, split)
    folder.write_metrics(
        kind=kind,
        step=session.step,
        loss=score.loss,
        accuracy=score.accuracy,
        states=session.model.state_dims,
        elapsed_seconds=session.elapsed,
    )
    return score


def _close(session: Session, folder: RunFolder, splits: Splits) -> RunResult:
    score = partial(_score, session, folder, splits=splits)
    validation, test = score("validation"), score("test")
    before, after = session.step_seconds
    seconds = session.elapsed
    folder.write_metrics(
        kind="summary",
        step=session.step,
        parameters=sum(parameter.numel() for parameter in session.model.parameters()),
        states=session.model.state_dims,
        total_seconds=seconds,
        step_seconds_before=before,
        step_seconds_after=after,
        cut_seconds=sum(record.seconds for record in session.records),
        floor_seconds={"after": step_floor(session.model, next(session.batches))},
    )
    save(session.model.eval(), folder.model_path)
    folder.finish()
    return RunResult(
        model=session.model, validation=validation, test=test, records=session.records, seconds=seconds
    )
