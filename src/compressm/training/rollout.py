"""A model on its own outputs: how far does a simulation drift from the truth?"""

import torch
from torch import Tensor

from compressm.data import Split
from compressm.models import SequenceRegressor

WARMUP = 32
"""Steps with true inputs, from which the model may learn what no single input tells."""


@torch.no_grad()
def rollout_error(
    model: SequenceRegressor, split: Split, target_dim: int, *, warmup: int = WARMUP, batch_size: int = 250
) -> dict[str, float]:
    """Normalised root mean square errors of free runs.

    After ``warmup`` steps with true inputs the model's own outputs take the place of the first
    ``target_dim`` inputs to the end of the sequences; the other inputs (torques) stay the true ones. The
    error of a sequence is over its free steps, and the standard deviation it is divided by that of all
    targets there; both are averaged over channels in the square. The model's mode is restored.

    Args:
        model: Predicts the first ``target_dim`` inputs of the next step.
        split: Sequences without padding.
        target_dim: How many values are fed back.
        warmup: Steps with true inputs, at least 1 and fewer than the sequences have.
        batch_size: Sequences at once.

    Returns:
        ``rollout_nrmse``: the median over the sequences (one that escapes would be all of a mean); and
        ``rollout_escaped``: the share of sequences with an error above 1, that of a model which gives the
        mean.

    Raises:
        ValueError: If ``warmup`` leaves no step on either side.
    """
    if not 1 <= warmup < split.steps:
        raise ValueError(f"warmup is {warmup} of {split.steps} steps; it must leave some on either side")
    was_training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        errors, targets = [], []
        for start in range(0, len(split), batch_size):
            batch = split.batch(slice(start, start + batch_size)).to(device)
            free = _free_run(model, batch.inputs, target_dim, warmup)
            wanted = batch.targets[:, warmup:].double()
            errors.append((free.double() - wanted).square().mean(dim=1))
            targets.append(wanted.flatten(0, 1))
    finally:
        model.train(was_training)
    variance = torch.cat(targets).var(dim=0, correction=0)
    each = (torch.cat(errors) / variance).mean(dim=1).sqrt().nan_to_num(nan=torch.inf)
    return {
        "rollout_nrmse": float(each.quantile(0.5)),
        "rollout_escaped": float((each > 1.0).double().mean()),
    }


def _free_run(model: SequenceRegressor, inputs: Tensor, target_dim: int, warmup: int) -> Tensor:
    """Outputs of the steps from ``warmup`` on, ``(batch, L - warmup, target_dim)``."""
    state: tuple[Tensor, ...] | None = None
    outputs: list[Tensor] = []
    for step, given in enumerate(inputs.unbind(1)):
        if step >= warmup:
            given = torch.cat((outputs[-1], given[:, target_dim:]), dim=1)
        output, state = model.step(given, state)
        outputs.append(output)
    return torch.stack(outputs[warmup:], dim=1)
