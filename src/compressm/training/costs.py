"""What a run cost, and what its model costs from now on."""

import time
from typing import Any

import torch

from compressm.data import get_task
from compressm.models import PairClassifier
from compressm.models.sequence import BIDIRECTIONAL
from compressm.training.device import wait_for
from compressm.training.flops import TRAINING, flops_per_sequence
from compressm.training.objectives import Model, Objective
from compressm.training.peak import gpu_peak_memory, peak_memory, start_peak
from compressm.training.session import Session

STREAMED, WARM = 256, 32


def start_of_costs() -> None:
    """Begin to watch the memory of a run."""
    start_peak()


def summarise_costs(session: Session) -> dict[str, Any]:
    """For the closing line of a run.

    ``stages`` are the sizes between cuts with the median seconds of a step at each; ``flops_per_step`` the
    operations of a training step of the final model (:func:`flops_per_sequence`, three forward passes, full
    length); ``peak_memory`` bytes, ``gpu_peak_memory`` those that tensors took on a GPU (None on a CPU);
    ``recompilations`` parts that a cut made torch.compile compile again;
    ``streamed_per_second`` steps that the final model takes one at a time on one sequence.
    """
    config, model = session.config, session.model
    sequence = flops_per_sequence(model, get_task(config.task).length)
    return {
        "stages": session.stages,
        "flops_per_step": TRAINING * config.batch_size * sequence,
        "peak_memory": peak_memory(),
        "gpu_peak_memory": gpu_peak_memory(session.device),
        "recompilations": sum(record.recompilations for record in session.records),
        "streamed_per_second": streaming_rate(model, session),
    }


@torch.no_grad()
def streaming_rate(model: Model, session: Session, steps: int = STREAMED) -> float | None:
    """Time steps a second in the step form, batch 1, in evaluation mode; None for models without one.

    A language model streams tokens; others stream vectors. The model's mode is restored.
    """
    if isinstance(model, PairClassifier) or model.mixer in BIDIRECTIONAL:
        return None
    inputs = _one_sequence(session.objective, session)
    was_training = model.training
    model.eval()
    try:
        step: Any = model.step  # each kind of model has its own state
        state = None
        began = time.perf_counter()
        for k in range(WARM + steps):
            if k == WARM:
                wait_for(session.device)
                began = time.perf_counter()
            _, state = step(inputs[:, k % inputs.shape[1]], state)
        wait_for(session.device)
        return steps / (time.perf_counter() - began)
    finally:
        model.train(was_training)


def _one_sequence(objective: Objective, session: Session) -> torch.Tensor:
    return objective.arguments(session.next_batch())[0][:1]  # type: ignore[index]
