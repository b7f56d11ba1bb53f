"""Everything that moves during a run, and its checkpoint."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from compressm.compression import Compressor, Cut, FractionRank, TrackRecord, parameter_groups
from compressm.data import Batch, Batches, Splits, get_task
from compressm.models import compile_blocks
from compressm.rivals import RandomStates
from compressm.training.config import OptimizerConfig, TrainConfig
from compressm.training.device import autocast, pick_device, random_states, restore_random_states
from compressm.training.evaluation import evaluate
from compressm.training.graph import WARM, GraphedStep
from compressm.training.losses import TrainingLoss
from compressm.training.no_cuts import NoCuts
from compressm.training.objectives import find_objective


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Multiple of the peak learning rate for the optimiser step number ``step`` (from 0) of ``steps``."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if not config.cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class _Position:
    """The loop's own step, for the guard to put back."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    def state_dict(self) -> dict[str, int]:
        return {"step": self._session.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._session.step = state["step"]


class Session:
    """Model, optimiser, scheduler, compressor and data order of a run.

    Args:
        config: All settings.
        splits: The task's data.
        checkpoint: What :meth:`state_dict` gave, to go on from there.
        teacher: The model to learn from, where the settings ask for one.

    Attributes:
        device: Where it computes.
        objective: What the task's kind asks for.
        step: Optimiser steps done.
        evaluation_seconds: Time that scoring on validation and test data took.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        checkpoint: dict[str, Any] | None = None,
        *,
        teacher: nn.Module | None = None,
    ) -> None:
        self.config = config
        self._began = time.perf_counter()
        self._earlier = 0.0 if checkpoint is None else checkpoint["elapsed"]
        self.evaluation_seconds = 0.0 if checkpoint is None else checkpoint["evaluation_seconds"]
        self._step_times: list[tuple[int, float]] = []
        self._graph: GraphedStep | None = None
        self._usual = 0  # steps made without it since the layers had their sizes
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        task = get_task(config.task)
        self.objective = find_objective(task)
        self._loss = TrainingLoss(config, self.objective, teacher and teacher.to(self.device))
        # Made on the CPU: the same initial weights on every device.
        self.model = self.objective.make_model(
            task, config.model, config.model.state_dim if checkpoint is None else checkpoint["state_dims"]
        ).to(self.device)
        groups = parameter_groups(
            self.model,
            lr=config.optimizer.lr,
            ssm_lr_factor=config.optimizer.ssm_lr_factor,
            weight_decay=config.optimizer.weight_decay,
        )
        self.optimizer = AdamW(groups, fused=True)
        self.scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, config.steps, config.optimizer)
        )
        self.batches = Batches(self.objective.prepare(splits.train), config.batch_size, config.seed)
        self._validation = splits.validation
        self._reducer = config.compression.make_reducer(config.seed)
        self.compressor = self._make_compressor()
        if config.compile:
            compile_blocks(self.model)
        self.step = 0
        if checkpoint is not None:
            self._restore(checkpoint)
        self.model.train()

    @property
    def learning_rate(self) -> float:
        """Of the main group, at the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def elapsed(self) -> float:
        """Seconds since the start, earlier parts of a resumed run included."""
        return self._earlier + time.perf_counter() - self._began

    @property
    def records(self) -> list[Cut]:
        """All attempts so far."""
        return [] if self.compressor is None else self.compressor.records

    @property
    def checks(self) -> list[TrackRecord]:
        """All checks of the Hankel singular values so far."""
        return [] if self.compressor is None else self.compressor.tracker.records

    def next_batch(self) -> Batch:
        """The next training batch, on the device."""
        batch = self.objective.disturbed(next(self.batches), self.config.feedback_noise)
        return batch.to(self.device)

    def differentiate(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Loss of the task and accuracy on a training batch; gradients are left in the parameters."""
        if self._graph is None and self._may_record(batch):
            self._graph = GraphedStep(self._differentiate, batch, self.optimizer)
        if self._graph is not None and self._graph.fits(batch):
            loss, accuracy = self._graph(batch)
            return loss.clone(), None if accuracy is None else accuracy.clone()
        self._usual += 1
        # A recorded step goes on writing into the gradients that there are.
        self.optimizer.zero_grad(set_to_none=self._graph is None)
        return self._differentiate(batch)

    def _differentiate(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        with autocast(self.device, self.config.precision):
            loss = self._loss(self.model, batch, self.step)
        loss.total.backward()  # type: ignore[no-untyped-call]
        return loss.task.detach(), loss.accuracy

    def _may_record(self, batch: Batch) -> bool:
        return (
            self.config.cuda_graph
            and self.device.type == "cuda"
            and batch.lengths is None
            and self._usual >= WARM
            and (self.compressor is None or self.compressor.finished)
        )

    def cut(self, loss: Tensor, validate: Callable[[], float]) -> Cut | None:
        """Let the compressor count the step that was just made.

        Args:
            loss: Its training loss.
            validate: Gives the validation metric, where a guard wants it.
        """
        if self.compressor is None:
            return None
        if self.config.compression.schedule == "auto":
            cut = self.compressor.step(float(loss))
        else:
            cut = self.compressor.step(validate() if self.compressor.wants_metric else None)
        if cut is not None:
            self._usual = 0
        return cut

    def record_step_time(self, seconds: float) -> None:
        """Remember how long the step took, for the medians before and after the cuts."""
        self._step_times.append((self.step, seconds))

    @property
    def step_seconds(self) -> tuple[float | None, float | None]:
        """Median seconds of a step before the first cut and after the last; of all steps without cuts."""
        changed = [record.step for record in self.records if record.changed]
        first, last = (changed[0], changed[-1]) if changed else (self.config.steps, 0)
        before = [seconds for step, seconds in self._step_times if step <= first]
        after = [seconds for step, seconds in self._step_times if step > last]
        return (
            statistics.median(before) if before else None,
            statistics.median(after) if after else None,
        )

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Between cuts: the first step at each size, the sizes, and the median seconds of a step."""
        sizes = [layer.old for layer in self.records[0].layers] if self.records else self.model.state_dims
        stages: list[dict[str, Any]] = [{"after": 0, "states": sizes}]
        stages += [
            {"after": record.step, "states": [layer.new for layer in record.layers]}
            for record in self.records
            if record.changed or record.undid is not None
        ]
        ends = [stage["after"] for stage in stages[1:]] + [self.step]
        for stage, end in zip(stages, ends, strict=True):
            seconds = [taken for step, taken in self._step_times if stage["after"] < step <= end]
            stage["step_seconds"] = statistics.median(seconds) if seconds else None
        return stages

    def state_dict(self) -> dict[str, Any]:
        """A whole checkpoint, in tensors, numbers, lists and strings."""
        return {
            "step": self.step,
            "state_dims": self.model.state_dims,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "compressor": None if self.compressor is None else self.compressor.state_dict(),
            "chance": self._reducer.state_dict() if isinstance(self._reducer, RandomStates) else None,
            "batches": self.batches.state_dict(),
            "loss": self._loss.state_dict(),
            **random_states(self.device),
            "elapsed": self.elapsed,
            "evaluation_seconds": self.evaluation_seconds,
            "step_times": self._step_times,
        }

    def _make_compressor(self) -> Compressor | None:
        settings = self.config.compression
        validation, objective = self._validation, self.objective
        rule = settings.rule(lambda: evaluate(self.model, validation, objective).value, objective.metric.mode)
        if rule is None and settings.track_every is None:
            return None
        return Compressor(
            self.model,
            self.optimizer,
            rank=rule or FractionRank(1.0),
            schedule=settings.make_schedule(self.config.steps) if rule else NoCuts(),
            realization=settings.realization,
            reduction=self._reducer,
            optimizer_state=settings.optimizer_state,
            guard=settings.make_guard(objective.metric.mode) if rule else None,
            stateful={"scheduler": self.scheduler, "batches": self.batches, "loop": _Position(self)},
            track_every=settings.track_every,
        )

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        if self.compressor is not None:
            self.compressor.load_state_dict(checkpoint["compressor"])
        if isinstance(self._reducer, RandomStates) and checkpoint.get("chance") is not None:
            self._reducer.load_state_dict(checkpoint["chance"])
        self.batches.load_state_dict(checkpoint["batches"])
        self._loss.load_state_dict(checkpoint["loss"])
        self.step = checkpoint["step"]
        self._step_times = [(step, seconds) for step, seconds in checkpoint["step_times"]]
        restore_random_states(checkpoint, self.device)
