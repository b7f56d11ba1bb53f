"""Loss and accuracy over a whole split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compressm.data import Split, ordered_batches


@dataclass(frozen=True)
class Score:
    """Mean cross entropy in nats and share of right answers."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, *, batch_size: int = 250) -> Score:
    """Score a classifier on every sequence of ``split``, in evaluation mode; its mode is restored.

    Args:
        model: Maps ``(inputs, lengths)`` to logits.
        split: Data.
        batch_size: Sequences at once; has no effect on the result but for rounding.
    """
    was_training = model.training
    model.eval()
    loss, right, count = 0.0, 0, 0
    try:
        for inputs, targets, lengths in ordered_batches(split, batch_size):
            logits = model(inputs, lengths)
            loss += F.cross_entropy(logits, targets, reduction="sum").item()
            right += int((logits.argmax(dim=1) == targets).sum())
            count += len(targets)
    finally:
        model.train(was_training)
    return Score(loss / count, right / count)
