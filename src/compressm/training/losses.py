"""What a run minimises: its task's loss, and what a rival adds to it."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from compressm.data import Batch
from compressm.rivals import DistillationLoss, HankelRegularizer
from compressm.training.config import TrainConfig
from compressm.training.objectives import Model, Objective


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: What is minimised.
        task: The task's own part, the same figure in every run.
        accuracy: Share of right answers; None where nothing is right or wrong.
    """

    total: Tensor
    task: Tensor
    accuracy: Tensor | None


class TrainingLoss:
    """The loss of a run as its settings have it.

    Args:
        config: All settings.
        objective: What the task's kind asks for.
        teacher: The model to learn from, where the settings ask for one.

    Raises:
        ValueError: If they do and there is none.
    """

    def __init__(self, config: TrainConfig, objective: Objective, teacher: nn.Module | None = None) -> None:
        wanted, pressed = config.distillation, config.regularization
        if wanted.teacher_states is not None and teacher is None:
            raise ValueError(
                f"distillation.teacher_states is {wanted.teacher_states}, but no teacher was given: "
                "train() makes one"
            )
        self._objective = objective
        self._distillation = (
            None
            if wanted.teacher_states is None or teacher is None
            else DistillationLoss(teacher, wanted.temperature, wanted.alpha)
        )
        self._regularizer = (
            None
            if pressed.hankel_weight is None
            else HankelRegularizer(
                pressed.hankel_weight,
                normalization=pressed.hankel_normalization,
                realization=pressed.hankel_realization,
                refresh=pressed.hankel_refresh,
                naive=pressed.hankel_naive,
            )
        )
        self._last = round(pressed.hankel_until * config.steps)

    def __call__(self, model: Model, batch: Batch, step: int) -> Loss:
        """The loss of a batch.

        Args:
            model: The model, whose layers may be pressed.
            batch: The batch.
            step: Optimiser steps done before.
        """
        if self._distillation is None:
            task, accuracy = self._objective.learn(model, batch)
            total = task
        else:
            outputs = self._objective.forward(model, batch)
            task = self._objective.loss(outputs, batch.targets)
            accuracy = self._objective.accuracy(outputs.detach(), batch.targets)
            total = self._distillation(outputs, batch.targets, *self._objective.arguments(batch))
        if self._regularizer is not None and step < self._last:
            # By the run's own count, which a restart and the guard put back.
            self._regularizer.steps_done = step
            total = total + self._regularizer(model)
        return Loss(total, task, accuracy)

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs."""
        return {} if self._regularizer is None else {"hankel": self._regularizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        if self._regularizer is not None:
            self._regularizer.load_state_dict(state["hankel"])
