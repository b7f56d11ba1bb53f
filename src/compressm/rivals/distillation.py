"""Knowledge distillation: a small model learns from the answers of a full-size one."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DistillationLoss:
    """``(1 - alpha) CE(student, targets) + alpha T^2 KL(teacher || student)``, both at temperature ``T``.

    The divergence compares ``softmax(logits / T)`` of both models (Hinton, Vinyals and Dean 2015); ``T^2``
    keeps its gradients at the size of the cross entropy's.  As in CompreSSM's comparison (arXiv 2510.02823)
    the teacher is the full-size model, and its time counts: :attr:`teacher_seconds`.

    ``loss = distillation(model(x, lengths), targets, x, lengths)``.

    This is no module on purpose: as a part of the student, the teacher would be trained, saved and cut.

    Args:
        teacher: Any callable from inputs to logits, or to an object with ``logits``.  A module is put into
            evaluation mode, and stays there.
        temperature: ``T``, positive.
        alpha: Weight of the teacher's answers, in ``[0, 1]``.
        ignore_index: Targets of this value are padding and count in neither part.

    Attributes:
        teacher_seconds: Wall-clock seconds spent in the teacher so far.  On a GPU the device is awaited
            before and after, so that they are its own.

    Raises:
        ValueError: If the temperature is not positive and finite or alpha outside ``[0, 1]``.
    """

    def __init__(
        self,
        teacher: Callable[..., Any],
        temperature: float = 2.0,
        alpha: float = 0.5,
        *,
        ignore_index: int = -100,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"DistillationLoss: temperature is {temperature}; it must be positive and finite"
            )
        if not 0 <= alpha <= 1:
            raise ValueError(f"DistillationLoss: alpha is {alpha}; it must be in [0, 1]")
        self.teacher, self.temperature, self.alpha = teacher, temperature, alpha
        self.ignore_index = ignore_index
        self.teacher_seconds = 0.0

    def __call__(self, student_logits: Tensor, targets: Tensor, *inputs: Any, **keywords: Any) -> Tensor:
        """The loss of one batch.

        Args:
            student_logits: ``(..., classes)``.
            targets: Classes, ``(...)``.
            *inputs: What the teacher is called with: as a rule what the student was, lengths included.
            **keywords: The same, by name.

        Returns:
            A scalar, in at least float32: the mean over all targets that count.

        Raises:
            TypeError: If the teacher does not give logits.
            ValueError: If shapes disagree or no target counts.
        """
        if student_logits.shape[:-1] != targets.shape:
            raise ValueError(
                f"DistillationLoss: logits {tuple(student_logits.shape)} need targets "
                f"{tuple(student_logits.shape[:-1])}, got {tuple(targets.shape)}"
            )
        taught = self.teacher_logits(*inputs, **keywords)
        if taught.shape != student_logits.shape:
            raise ValueError(
                f"DistillationLoss: the teacher's logits are {tuple(taught.shape)}, the student's "
                f"{tuple(student_logits.shape)}; both must see the same inputs and know the same classes"
            )
        counted = targets != self.ignore_index
        if not bool(counted.any()):
            raise ValueError(
                f"DistillationLoss: all {targets.numel()} targets are ignore_index={self.ignore_index}"
            )
        # A sum over hundreds of classes does not survive half precision.
        student, teacher = (_at_least_single(logits)[counted] for logits in (student_logits, taught))
        hard = F.cross_entropy(student, targets[counted])
        soft = F.kl_div(
            F.log_softmax(student / self.temperature, dim=-1),
            F.log_softmax(teacher / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return (1.0 - self.alpha) * hard + self.alpha * self.temperature**2 * soft

    def teacher_logits(self, *inputs: Any, **keywords: Any) -> Tensor:
        """The teacher's logits, in evaluation mode and without a gradient; its time is counted.

        Raises:
            TypeError: If it gives neither a tensor nor an object with the tensor ``logits``.
        """
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()  # here and not once: a loop that calls train() may reach the teacher
        _await_device()
        began = time.perf_counter()
        with torch.no_grad():
            output = self.teacher(*inputs, **keywords)
        _await_device()
        self.teacher_seconds += time.perf_counter() - began
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"DistillationLoss: the teacher gave {type(output).__name__}; it must give logits, as a "
                "tensor or as an attribute 'logits': wrap it in a function that picks them"
            )
        return logits.detach()


def _at_least_single(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _await_device() -> None:
    # A process that has not used the GPU so far is not made to.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
