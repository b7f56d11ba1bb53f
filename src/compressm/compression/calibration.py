"""Calibration batches: what they can tell, and a run of the model over them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from compressm.compression.reducers import Needs
from compressm.compression.signals import SignalRecorder

Batch = Mapping[str, Any] | Sequence[Any] | Tensor
Loss = Callable[[Any, Any], Tensor]


def available(calibration: Iterable[Batch] | None, loss: Loss | None) -> tuple[Needs, Iterable[Batch] | None]:
    """What calibration can tell, seen from its first batch, and the calibration with that batch in place."""
    if calibration is None:
        return "nothing", None
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("compress: calibration holds no batches")
    if isinstance(first, Mapping):
        with_loss = loss is not None or "labels" in first
    else:
        with_loss = loss is not None and not isinstance(first, Tensor) and len(first) > 1
    return "gradients" if with_loss else "inputs", chain((first,), batches)


def replay(
    model: nn.Module,
    recorder: SignalRecorder,
    calibration: Iterable[Batch],
    loss: Loss | None = None,
    *,
    gradients: bool = False,
) -> None:
    """Run the batches in evaluation mode, so that ``recorder`` sees what passes through the layers.

    Modes are put back, and the recorder leaves the model.
    """
    recorder.switch(on=True)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in calibration:
            _pass(model, batch, loss, gradients=gradients)
    finally:
        recorder.leave()
        for module, mode in modes:
            module.training = mode


def _pass(model: nn.Module, batch: Batch, loss: Loss | None, *, gradients: bool) -> None:
    """One batch forward, and backward if gradients of the layers' outputs are needed."""
    keywords: dict[str, Any] = {}
    arguments: tuple[Any, ...] = ()
    targets = None
    if isinstance(batch, Mapping):
        keywords = dict(batch)
    elif isinstance(batch, Tensor):
        arguments = (batch,)
    else:
        inputs, targets = batch[0], batch[1] if len(batch) > 1 else None
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if not gradients:
        with torch.no_grad():
            model(*arguments, **keywords)
        return
    with torch.enable_grad():
        output = model(*arguments, **keywords)
        if loss is not None and targets is not None:
            value = loss(output, targets)
        elif isinstance(getattr(output, "loss", None), Tensor):
            value = output.loss
        else:
            raise ValueError(
                "compress: this reduction needs gradients: give pairs (inputs, targets) with "
                "loss=loss(output, targets), or dicts for which model(**batch).loss is one"
            )
        # backward() would add to the parameters' gradients, which are the user's.
        torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
