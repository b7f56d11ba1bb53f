"""Loss and figures over a whole split."""

from dataclasses import replace

import torch

from compressm.data import Split, ordered_batches
from compressm.training.objectives import Classification, Model, Objective, Sums
from compressm.training.score import Score

EVALUATION_STEPS = 1 << 18
"""Steps of all sequences of a batch together, at most: long sequences would take gigabytes otherwise."""


@torch.no_grad()
def evaluate(
    model: Model, split: Split, objective: Objective | None = None, *, batch_size: int | None = None
) -> Score:
    """Score a model on every sequence of ``split``, in evaluation mode; its mode is restored.

    Args:
        model: Maps what the objective reads from a batch to its outputs.
        split: Data.
        objective: What counts, from :func:`~compressm.training.find_objective`; that of classification if not
            given.
        batch_size: Sequences at once, the objective's choice if not given; has no effect on the result but
            for rounding.
    """
    objective = objective or Classification()
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums: Sums = {}
    try:
        count = batch_size or max(1, min(objective.evaluation_batch, EVALUATION_STEPS // max(split.steps, 1)))
        for batch in ordered_batches(objective.prepare(split), count):
            for name, term in objective.measure(model, batch.to(device)).items():
                sums[name] = sums[name] + term if name in sums else term
    finally:
        model.train(was_training)
    return objective.score(sums)


def final_score(model: Model, split: Split, objective: Objective) -> Score:
    """:func:`evaluate`, with the figures that take longer."""
    score = evaluate(model, split, objective)
    return replace(score, figures={**score.figures, **objective.closing(model, split)})
